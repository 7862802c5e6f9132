/** Progress of a run: bar, text and time left. It has the same height in every state. */
import { Group, Progress, Text } from "@mantine/core";
import type { RunSummary } from "@/api/types";
import { etaText, isFinal, percent, progressText } from "@/features/runs/labels";
import { capitalise, elapsedSeconds, formatDuration } from "@/lib/format";

function statusText(run: RunSummary): string {
  if (run.state === "waiting") return "Waiting for input runs";
  if (run.state === "queued")
    return run.attempt > 0 ? "Waiting to resume" : "Waiting for a free worker";
  if (run.state === "failed") return capitalise(run.error?.message ?? "failed");
  if (run.state === "skipped") return "An input run did not succeed";
  const elapsed = elapsedSeconds(run.started_at, run.finished_at);
  if (isFinal(run.state)) return elapsed === null ? "" : `Took ${formatDuration(elapsed)}`;
  return "Starting";
}

export function ProgressCell({ run }: { run: RunSummary }) {
  const active = run.state === "running" || run.state === "cancelling";
  if (!active || !run.progress) {
    return (
      <Text size="xs" c={run.state === "failed" ? "red" : "dimmed"} lineClamp={2}>
        {statusText(run)}
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
          {capitalise(progressText(run.progress))}
        </Text>
        <Text size="xs" c="dimmed" style={{ whiteSpace: "nowrap" }}>
          {etaText(run.progress)}
        </Text>
      </Group>
    </div>
  );
}
