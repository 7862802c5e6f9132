/** Labels of runs: kind, progress, pipelines; pure. */
import type { Progress, RunKind, RunState, RunSummary } from "@/api/types";
import { formatCount, formatEta } from "@/lib/format";

export const KIND_LABELS: Record<RunKind, string> = {
  teacher: "Teacher",
  prune: "Prune",
  distill: "Distill",
};

const FINAL_STATES: ReadonlySet<RunState> = new Set([
  "succeeded",
  "failed",
  "cancelled",
  "skipped",
]);

export function isFinal(state: RunState): boolean {
  return FINAL_STATES.has(state);
}

/** Share of the phase that is done, 0 to 100; null while unknown. */
export function percent(progress: Progress | null): number | null {
  if (!progress?.total || progress.total <= 0) return null;
  return Math.min(100, Math.max(0, (100 * progress.done) / progress.total));
}

/** `training · 120 / 290 steps`; the total and the unit may be missing. */
export function progressText(progress: Progress): string {
  const phase = progress.phase.replaceAll("_", " ");
  const total = progress.total === null ? "" : ` / ${formatCount(progress.total)}`;
  const unit = progress.unit ? ` ${progress.unit}` : "";
  return `${phase} · ${formatCount(progress.done)}${total}${unit}`;
}

export function etaText(progress: Progress | null): string {
  return formatEta(progress?.eta_s ?? null);
}

export function numberOf(result: Record<string, unknown> | null, key: string): number | null {
  const value = result?.[key];
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

export interface RunGroup {
  /** The pipeline's id, or the single run's. */
  key: string;
  pipelineId: string | null;
  runs: RunSummary[];
}

const ORDER: Record<RunKind, number> = { teacher: 0, prune: 1, distill: 2 };

/** Groups the runs of a page by pipeline, each group in the order of its stages. */
export function groupRuns(runs: readonly RunSummary[]): RunGroup[] {
  const groups = new Map<string, RunGroup>();
  for (const run of runs) {
    const key = run.pipeline_id ?? run.id;
    const group = groups.get(key);
    if (group) group.runs.push(run);
    else groups.set(key, { key, pipelineId: run.pipeline_id, runs: [run] });
  }
  for (const group of groups.values()) group.runs.sort((a, b) => ORDER[a.kind] - ORDER[b.kind]);
  return [...groups.values()];
}
