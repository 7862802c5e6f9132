/** Selects a file and uploads it, with progress, cancel, and the server's error if it is rejected. */
import { Button, FileButton, Group, Progress, Stack, Text } from "@mantine/core";
import { IconUpload } from "@tabler/icons-react";
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { messageOf } from "@/api/problem";
import type { Dataset, DatasetKind } from "@/api/types";
import { type Upload, upload } from "./upload";

const ACCEPT: Record<DatasetKind, string> = {
  text: ".txt,.jsonl,.csv,.parquet",
  tokenizer: ".json,.txt",
};

interface UploadButtonProps {
  kind: DatasetKind;
  label: string;
  onUploaded?: (dataset: Dataset) => void;
  compact?: boolean;
}

export function UploadButton({ kind, label, onUploaded, compact = false }: UploadButtonProps) {
  const queryClient = useQueryClient();
  const running = useRef<Upload | null>(null);
  const [share, setShare] = useState<number | null>(null);
  const [error, setError] = useState<string | null>(null);

  // Leaving the page cancels the upload: its result could not be shown.
  useEffect(() => () => running.current?.cancel(), []);

  const start = async (file: File | null) => {
    if (!file) return;
    setError(null);
    setShare(0);
    running.current = upload(file, kind, setShare);
    try {
      const dataset = await running.current.promise;
      await queryClient.invalidateQueries({ queryKey: ["datasets"] });
      onUploaded?.(dataset);
    } catch (reason) {
      const cancelled = reason instanceof DOMException && reason.name === "AbortError";
      setError(cancelled ? null : messageOf(reason));
    } finally {
      running.current = null;
      setShare(null);
    }
  };

  return (
    <Stack gap={4}>
      {share === null ? (
        <FileButton onChange={(file) => void start(file)} accept={ACCEPT[kind]}>
          {(props) => (
            <Button
              {...props}
              size={compact ? "compact-xs" : "xs"}
              variant={compact ? "subtle" : "light"}
              w="fit-content"
              leftSection={<IconUpload size={13} />}
            >
              {label}
            </Button>
          )}
        </FileButton>
      ) : (
        <Group gap="xs" wrap="nowrap" w={280} maw="100%">
          <Progress
            value={share * 100}
            animated={share >= 1}
            size="sm"
            flex={1}
            aria-label="Upload progress"
          />
          <Text size="xs" c="dimmed" className="numeric">
            {share >= 1 ? "validating" : `${Math.floor(share * 100)} %`}
          </Text>
          <Button
            size="compact-xs"
            variant="subtle"
            color="gray"
            onClick={() => running.current?.cancel()}
          >
            Cancel
          </Button>
        </Group>
      )}
      {error && (
        <Text size="xs" c="red" role="alert">
          {error}
        </Text>
      )}
    </Stack>
  );
}
