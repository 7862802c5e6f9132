/** The run's files: single downloads, the archive, and how to load it. */
import {
  Alert,
  Button,
  Code,
  CopyButton,
  Group,
  Paper,
  Skeleton,
  Stack,
  Table,
  Text,
} from "@mantine/core";
import { IconDownload } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { messageOf } from "@/api/problem";
import { artifactsQuery } from "@/api/queries";
import type { RunDetail } from "@/api/types";
import { isFinal } from "@/features/runs/labels";
import { formatBytes, formatTime } from "@/lib/format";

function fileUrl(id: string, path: string): string {
  return `/api/v1/runs/${id}/artifacts/${path.split("/").map(encodeURIComponent).join("/")}`;
}

function snippet(run: RunDetail): string {
  return [
    "from transformers import pipeline",
    "",
    "# the folder of the unpacked archive",
    `fill_mask = pipeline("fill-mask", "./halflayer-${run.id}")`,
    'print(fill_mask("The capital of France is [MASK]."))',
  ].join("\n");
}

function Snippet({ run }: { run: RunDetail }) {
  const code = snippet(run);
  return (
    <div>
      <Group justify="space-between" mb={4}>
        <Text size="sm" fw={550}>
          Load with transformers
        </Text>
        <CopyButton value={code}>
          {({ copied, copy }) => (
            <Button size="compact-xs" variant="subtle" onClick={copy}>
              {copied ? "Copied" : "Copy"}
            </Button>
          )}
        </CopyButton>
      </Group>
      <Paper p={0}>
        <Code block bg="transparent">
          {code}
        </Code>
      </Paper>
    </div>
  );
}

export function Files({ run }: { run: RunDetail }) {
  const done = run.state === "succeeded";
  const files = useQuery({ ...artifactsQuery(run.id), enabled: done });
  if (!done) {
    return (
      <Paper>
        <Text size="sm" c="dimmed">
          {isFinal(run.state)
            ? "Only successful runs have files."
            : "Files appear when the run succeeds."}
        </Text>
      </Paper>
    );
  }
  if (run.files_removed_at) {
    return (
      <Paper>
        <Text size="sm" c="dimmed">
          Files were removed by cleanup on {formatTime(run.files_removed_at)}; metrics and log are
          kept.
        </Text>
      </Paper>
    );
  }
  if (files.error) return <Alert color="red">{messageOf(files.error)}</Alert>;
  if (!files.data) return <Skeleton h={160} />;
  const total = files.data.items.reduce((sum, file) => sum + file.size_bytes, 0);
  return (
    <Stack gap="md">
      <Group gap="xs">
        <Button
          component="a"
          href={`/api/v1/runs/${run.id}/checkpoint`}
          download
          size="xs"
          leftSection={<IconDownload size={14} />}
        >
          Download checkpoint (.zip, {formatBytes(total)})
        </Button>
        <Button
          component="a"
          href={`/api/v1/runs/${run.id}/report`}
          download
          size="xs"
          variant="light"
          leftSection={<IconDownload size={14} />}
        >
          Download report (.html)
        </Button>
      </Group>
      <Paper p={0} className="scroll-x">
        <Table verticalSpacing={6} miw={560}>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>File</Table.Th>
              <Table.Th>Size</Table.Th>
              <Table.Th>SHA-256</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {files.data.items.map((file) => (
              <Table.Tr key={file.path}>
                <Table.Td>
                  <a className="link" href={fileUrl(run.id, file.path)} download>
                    {file.path}
                  </a>
                </Table.Td>
                <Table.Td className="numeric">{formatBytes(file.size_bytes)}</Table.Td>
                <Table.Td>
                  <CopyButton value={file.sha256}>
                    {({ copied, copy }) => (
                      <Button
                        size="compact-xs"
                        variant="subtle"
                        color="gray"
                        className="mono"
                        onClick={copy}
                        title={file.sha256}
                        aria-label={`Copy the SHA-256 of ${file.path}`}
                      >
                        {copied ? "copied" : `${file.sha256.slice(0, 12)}…`}
                      </Button>
                    )}
                  </CopyButton>
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Paper>
      <Snippet run={run} />
    </Stack>
  );
}
