/** Uploaded texts and tokenizers: list, upload, delete. */
import { Badge, Group, Stack, Table, Text, Title } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { client, unwrap } from "@/api/client";
import { datasetsQuery, sessionQuery } from "@/api/queries";
import type { Dataset } from "@/api/types";
import { ConfirmButton } from "@/components/ConfirmButton";
import { DataTable } from "@/components/DataTable";
import { formatBytes, formatCount, formatTime } from "@/lib/format";
import { useTitle } from "@/lib/title";
import { UploadButton } from "./UploadButton";

const FORMATS: Partial<Record<Dataset["format"], string>> = {
  tokenizer_json: "tokenizer.json",
  vocab_txt: "vocab.txt",
};

function DatasetRow({ dataset, mayWrite }: { dataset: Dataset; mayWrite: boolean }) {
  const queryClient = useQueryClient();
  const remove = async () => {
    await unwrap(
      client.DELETE("/api/v1/datasets/{dataset_id}", {
        params: { path: { dataset_id: dataset.id } },
      }),
    );
    await queryClient.invalidateQueries({ queryKey: ["datasets"] });
    notifications.show({ message: `${dataset.name} was deleted.` });
  };
  return (
    <Table.Tr>
      <Table.Td>
        <Text size="sm" fw={500}>
          {dataset.name}
        </Text>
        <Text size="xs" c="dimmed" className="mono">
          {dataset.id}
        </Text>
      </Table.Td>
      <Table.Td>
        <Badge variant="light" color={dataset.kind === "text" ? "lake" : "grape"} tt="none">
          {dataset.kind}
        </Badge>
      </Table.Td>
      <Table.Td>
        {FORMATS[dataset.format] ?? dataset.format}
        {dataset.columns.length > 0 && (
          <Text size="xs" c="dimmed">
            columns: {dataset.columns.join(", ")}
          </Text>
        )}
      </Table.Td>
      <Table.Td className="numeric">{formatCount(dataset.documents)}</Table.Td>
      <Table.Td className="numeric">{formatBytes(dataset.size_bytes)}</Table.Td>
      <Table.Td>{formatTime(dataset.created_at)}</Table.Td>
      <Table.Td>
        {mayWrite && (
          <ConfirmButton
            size="compact-xs"
            variant="subtle"
            color="red"
            title="Delete this dataset?"
            question={
              <>
                This permanently deletes <b>{dataset.name}</b>. Finished runs keep their results,
                but cannot be reproduced without it.
              </>
            }
            confirm="Delete"
            onConfirm={remove}
            aria-label={`Delete ${dataset.name}`}
          >
            Delete
          </ConfirmButton>
        )}
      </Table.Td>
    </Table.Tr>
  );
}

export function DatasetsPage() {
  useTitle("Datasets");
  const { data: session } = useQuery(sessionQuery);
  const datasets = useQuery(datasetsQuery());
  const mayWrite = session?.scope !== "read";
  return (
    <Stack gap="md">
      <Group justify="space-between" align="flex-start">
        <div>
          <Title order={1} size="h2">
            Datasets
          </Title>
          <Text size="sm" c="dimmed">
            Text as .txt, .jsonl, .csv or .parquet; tokenizers as tokenizer.json or vocab.txt.
          </Text>
        </div>
        {mayWrite && (
          <Group gap="xs" align="flex-start">
            <UploadButton kind="text" label="Upload text" />
            <UploadButton kind="tokenizer" label="Upload tokenizer" />
          </Group>
        )}
      </Group>
      <DataTable
        query={datasets}
        columns={["Name", "Kind", "Format", "Documents", "Size", "Uploaded", ""]}
        minWidth={760}
        empty="No datasets yet. Without an upload, runs can use the offline sample or the HuggingFace hub."
        row={(dataset) => <DatasetRow key={dataset.id} dataset={dataset} mayWrite={mayWrite} />}
      />
    </Stack>
  );
}
