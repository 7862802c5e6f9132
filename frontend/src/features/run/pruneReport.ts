/** The report of a prune run as rows; pure. */
import { isRecord } from "@/lib/pointer";

export interface ReportRow {
  tensor: string;
  fate: "copied" | "fresh" | "dropped";
  from: string | null;
}

export type PruneReport = ReportRow[];

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

/** What became of each tensor: copied from where, fresh, or dropped. */
export function pruneReport(raw: Record<string, unknown>): PruneReport {
  const plain = (fate: "fresh" | "dropped") =>
    list(raw[fate]).map((tensor) => ({ tensor: String(tensor), fate, from: null }));
  const copied = list(raw.copied)
    .filter(isRecord)
    .map((entry) => ({
      tensor: String(entry.tensor),
      fate: "copied" as const,
      from: String(entry.from),
    }));
  return [...copied, ...plain("fresh"), ...plain("dropped")];
}

/** Tensors that started at random although the run began from a checkpoint. */
export function freshTensors(result: Record<string, unknown>): string[] {
  const report = isRecord(result.report) ? result.report : {};
  return list(result.fresh_tensors ?? report.fresh).map(String);
}
