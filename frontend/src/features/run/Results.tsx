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
import { useState } from "react";
import type { RunDetail } from "@/api/types";
import { isFinal } from "@/features/runs/labels";
import { formatCount, formatDuration, formatNumber, formatShare, formatShort } from "@/lib/format";
import { isRecord } from "@/lib/pointer";
import { freshTensors, type PruneReport, pruneReport } from "./pruneReport";

const FIGURES: [key: string, label: string, format: (value: number) => string][] = [
  ["eval_loss", "Eval loss", formatNumber],
  ["eval_perplexity", "Perplexity", formatNumber],
  ["start_eval_loss", "Eval loss at the start", formatNumber],
  ["unigram_entropy", "Unigram entropy", formatNumber],
  ["train_loss", "Train loss", formatNumber],
  ["last_loss", "Last loss", formatNumber],
  ["mean_loss", "Mean loss of the epoch", formatNumber],
  ["layers", "Layers", formatNumber],
  ["layer_drop", "Layer drop rate", String],
  ["parameters", "Parameters", formatShort],
  ["steps", "Updates", formatNumber],
  ["tokens", "Tokens", formatShort],
  ["tokens_per_s", "Tokens per second", formatShort],
  ["elapsed_s", "Training time", formatDuration],
  ["documents", "Documents", formatCount],
  ["blank_documents", "Documents without text", formatCount],
  ["unknown_token_share", "Unknown tokens", formatShare],
  ["unknown_character_share", "Characters in unknown tokens", formatShare],
  ["removed_character_share", "Characters removed by the tokenizer", formatShare],
  ["eval_unknown_token_share", "Unknown tokens, held-out text", formatShare],
  ["eval_unknown_character_share", "Characters in unknown tokens, held-out text", formatShare],
  ["eval_removed_character_share", "Characters removed, held-out text", formatShare],
  ["lines", "Lines distilled on", formatCount],
  ["lines_split", "Lines split for their length", formatCount],
  ["lines_too_short", "Lines left out as too short", formatCount],
  ["lines_too_unknown", "Lines left out as too unknown", formatCount],
];

/** The known figures of a result, formatted. */
export function figuresOf(result: Record<string, unknown>) {
  return FIGURES.flatMap(([key, label, format]) => {
    const value = result[key];
    return typeof value === "number" ? [{ key, label, text: format(value) }] : [];
  });
}

export function Results({ run }: { run: RunDetail }) {
  if (!run.result) return null;
  const known = figuresOf(run.result);
  const kept = run.result.kept_layers;
  if (Array.isArray(kept)) {
    known.push({ key: "kept_layers", label: "Layers kept", text: kept.join(", ") });
  }
  if (known.length === 0) return null;
  const fresh = freshTensors(run.result);
  const notes = Array.isArray(run.result.tokenizer_notes) ? run.result.tokenizer_notes : [];
  return (
    <Paper p="sm" aria-label="Results" component="section">
      <SimpleGrid cols={{ base: 2, xs: 3, sm: 4, lg: 6 }} spacing="sm" verticalSpacing={8}>
        {known.map((figure) => (
          <div key={figure.key} data-result={figure.key}>
            <Text size="xs" c="dimmed">
              {figure.label}
            </Text>
            <Text fw={550} className="numeric">
              {figure.text}
            </Text>
          </div>
        ))}
      </SimpleGrid>
      {fresh.length > 0 && (
        <Text size="xs" mt="sm" data-result="fresh_tensors">
          Randomly initialised, not taken from a checkpoint: {fresh.join(", ")}
        </Text>
      )}
      {notes.length > 0 && (
        <Text size="xs" c="dimmed" mt="xs" data-result="tokenizer_notes">
          Tokenizer: {notes.map(String).join("; ")}.
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
          { value: "fresh", label: `Random ${count("fresh")}` },
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
