/** Uploaded texts and tokenizers: upload, look, delete. */
import { Alert, Badge, Group, Paper, Skeleton, Stack, Table, Text, Title } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { client, unwrap } from "@/api/client";
import { messageOf } from "@/api/problem";
import { datasetsQuery, sessionQuery } from "@/api/queries";
import type { Dataset } from "@/api/types";
import { ConfirmButton } from "@/components/ConfirmButton";
import { formatBytes, formatCount, formatTime } from "@/lib/format";
import { useTitle } from "@/lib/title";
import { UploadButton } from "./UploadButton";

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
        {dataset.format}
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
            title="Delete this upload?"
            question={
              <>
                <b>{dataset.name}</b> will be gone. Finished runs keep their results, but cannot be
                repeated without it.
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
      {datasets.error && (
        <Alert color="red" role="alert">
          {messageOf(datasets.error)}
        </Alert>
      )}
      {datasets.isPending && <Skeleton h={120} />}
      {datasets.data && datasets.data.items.length === 0 && (
        <Paper>
          <Text c="dimmed" size="sm">
            Nothing has been uploaded. Runs can use the offline sample or the HuggingFace hub
            without an upload.
          </Text>
        </Paper>
      )}
      {datasets.data && datasets.data.items.length > 0 && (
        <Paper p={0} className="scroll-x">
          <Table verticalSpacing="xs" miw={760}>
            <Table.Thead>
              <Table.Tr>
                <Table.Th>Name</Table.Th>
                <Table.Th>Kind</Table.Th>
                <Table.Th>Format</Table.Th>
                <Table.Th>Documents</Table.Th>
                <Table.Th>Size</Table.Th>
                <Table.Th>Uploaded</Table.Th>
                <Table.Th aria-label="Actions" />
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>
              {datasets.data.items.map((dataset) => (
                <DatasetRow key={dataset.id} dataset={dataset} mayWrite={mayWrite} />
              ))}
            </Table.Tbody>
          </Table>
        </Paper>
      )}
    </Stack>
  );
}
