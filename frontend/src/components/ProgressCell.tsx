/** How far a run has come: a bar, words, and the time left. Keeps its height in every state. */
import { Group, Progress, Text } from "@mantine/core";
import type { RunSummary } from "@/api/types";
import { etaText, isFinal, percent, progressText } from "@/features/runs/labels";
import { elapsedSeconds, formatDuration, sentence } from "@/lib/format";

function restText(run: RunSummary): string {
  if (run.state === "waiting") return "waits for its inputs";
  if (run.state === "queued") return run.attempt > 0 ? "waits to resume" : "waits for a worker";
  if (run.state === "failed") return sentence(run.error?.message ?? "failed");
  if (run.state === "skipped") return "an input did not succeed";
  const elapsed = elapsedSeconds(run.started_at, run.finished_at);
  if (isFinal(run.state)) return elapsed === null ? "" : `took ${formatDuration(elapsed)}`;
  return "starting";
}

export function ProgressCell({ run }: { run: RunSummary }) {
  const moving = run.state === "running" || run.state === "cancelling";
  if (!moving || !run.progress) {
    return (
      <Text size="xs" c={run.state === "failed" ? "red" : "dimmed"} lineClamp={2}>
        {restText(run)}
      </Text>
    );
  }
  const done = percent(run.progress);
  return (
    <div>
      <Progress
        value={done ?? 100}
        striped={done === null}
        animated={done === null}
        size="sm"
        mb={4}
        aria-label={`Progress of ${run.name}`}
      />
      <Group justify="space-between" gap={8} wrap="nowrap">
        <Text size="xs" c="dimmed" className="numeric" truncate>
          {progressText(run.progress)}
        </Text>
        <Text size="xs" c="dimmed" style={{ whiteSpace: "nowrap" }}>
          {etaText(run.progress)}
        </Text>
      </Group>
    </div>
  );
}
