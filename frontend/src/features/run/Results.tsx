/** The results of a run, and where pruning took each tensor from. */
import {
  Badge,
  Group,
  Paper,
  SegmentedControl,
  SimpleGrid,
  Stack,
  Table,
  Text,
} from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { resultSchemaQuery } from "@/api/queries";
import type { RunDetail } from "@/api/types";
import { resultRows } from "@/features/runs/figures";
import { isFinal } from "@/features/runs/labels";
import { isRecord } from "@/lib/pointer";
import { freshTensors, type PruneReport, pruneReport } from "./pruneReport";

/** Shown in the page header, or as text below the figures. */
const SHOWN_ELSEWHERE = new Set(["role", "fresh_tensors", "tokenizer_notes"]);

export function Results({ run }: { run: RunDetail }) {
  const schema = useQuery(resultSchemaQuery);
  if (!run.result || schema.isPending) return null;
  const rows = resultRows(run.result, schema.data);
  const shown = rows.filter((row) => !SHOWN_ELSEWHERE.has(row.key));
  if (shown.length === 0) return null;
  const fresh = freshTensors(run.result);
  const notes = rows.find((row) => row.key === "tokenizer_notes");
  return (
    <Paper p="sm" aria-label="Results" component="section">
      <SimpleGrid cols={{ base: 2, xs: 3, sm: 4, lg: 6 }} spacing="sm" verticalSpacing={8}>
        {shown.map((row) => (
          <div key={row.key} data-result={row.key} title={row.description}>
            <Text size="xs" c="dimmed">
              {row.label}
            </Text>
            <Text fw={550} className="numeric">
              {row.text}
              {row.unit && (
                <Text span size="xs" c="dimmed" fw={400}>
                  {" "}
                  {row.unit}
                </Text>
              )}
            </Text>
          </div>
        ))}
      </SimpleGrid>
      {fresh.length > 0 && (
        <Text size="xs" mt="sm" data-result="fresh_tensors">
          Randomly initialised, not taken from a checkpoint: {fresh.join(", ")}
        </Text>
      )}
      {notes && (
        <Text size="xs" c="dimmed" mt="xs" data-result="tokenizer_notes">
          {notes.label}: {notes.text}.
        </Text>
      )}
    </Paper>
  );
}

const STATUSES = {
  copied: { color: "teal", label: "copied" },
  fresh: { color: "orange", label: "randomly initialised" },
  dropped: { color: "gray", label: "dropped" },
} as const;

function ReportTable({ report }: { report: PruneReport }) {
  const [status, setStatus] = useState<"all" | keyof typeof STATUSES>("all");
  const rows = report.filter((row) => status === "all" || row.status === status);
  const count = (wanted: keyof typeof STATUSES) =>
    report.filter((row) => row.status === wanted).length;
  return (
    <Stack gap="xs">
      <SegmentedControl
        size="xs"
        w="fit-content"
        value={status}
        onChange={(value) => setStatus(value as typeof status)}
        aria-label="Tensor status"
        data={[
          { value: "all", label: `All ${report.length}` },
          { value: "copied", label: `Copied ${count("copied")}` },
          { value: "fresh", label: `Randomly initialised ${count("fresh")}` },
          { value: "dropped", label: `Dropped ${count("dropped")}` },
        ]}
      />
      <Paper p={0} className="scroll-x">
        <Table verticalSpacing={4} miw={680}>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Tensor</Table.Th>
              <Table.Th>Status</Table.Th>
              <Table.Th>Copied from</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {rows.map((row) => (
              <Table.Tr key={`${row.status}:${row.tensor}`}>
                <Table.Td className="mono">{row.tensor}</Table.Td>
                <Table.Td>
                  <Badge size="sm" variant="light" color={STATUSES[row.status].color} tt="none">
                    {STATUSES[row.status].label}
                  </Badge>
                </Table.Td>
                <Table.Td className="mono">{row.from ?? "–"}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Paper>
    </Stack>
  );
}

export function PruneReportPanel({ run }: { run: RunDetail }) {
  const raw = run.result?.report;
  if (!isRecord(raw)) {
    return (
      <Group>
        <Text size="sm" c="dimmed">
          {isFinal(run.state)
            ? "The run ended before any tensor was copied."
            : "The list of tensors appears when the run succeeds."}
        </Text>
      </Group>
    );
  }
  return <ReportTable report={pruneReport(raw)} />;
}
