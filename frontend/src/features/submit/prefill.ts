/** Initial form values from earlier runs, pipelines and references; pure. */
import type { Config, FormKind, RunDetail } from "@/api/types";

/** The config of a pipeline from the configs of its three runs; null if one is missing. */
export function pipelineConfig(runs: readonly RunDetail[]): Config | null {
  const teacher = runs.find((run) => run.kind === "teacher")?.config;
  const prune = runs.find((run) => run.kind === "prune")?.config;
  const distill = runs.find((run) => run.kind === "distill")?.config;
  if (!teacher || !prune || !distill) return null;
  // The references between the three runs are set again when the pipeline is submitted.
  const { kind: _pruneKind, teacher: _pruned, ...pruneOptions } = prune;
  const {
    kind: _kind,
    teacher: _teacher,
    student: _student,
    corpus: _corpus,
    ...options
  } = distill;
  return { teacher, prune: pruneOptions, distill: options };
}

/** A config that only refers to its input runs. */
export function referenceConfig(
  kind: FormKind,
  teacher: string | undefined,
  student: string | undefined,
): Config | undefined {
  if (kind === "pipeline" || (!teacher && !student)) return undefined;
  const config: Config = {};
  const field = kind === "teacher" ? "model" : "teacher";
  if (teacher) config[field] = { source: "run", run_id: teacher };
  if (student && kind === "distill") config.student = { source: "run", run_id: student };
  return config;
}

/** The name of a copy: `base` becomes `base (2)`, which becomes `base (3)`. */
export function copyName(name: string): string {
  const counted = /^(.*) \((\d+)\)$/.exec(name);
  if (!counted) return `${name} (2)`;
  return `${counted[1]} (${Number(counted[2]) + 1})`;
}
