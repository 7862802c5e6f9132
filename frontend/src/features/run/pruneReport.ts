/** The report of a prune run as rows; pure. */
import { isRecord } from "@/lib/pointer";

interface ReportRow {
  tensor: string;
  status: "copied" | "fresh" | "dropped";
  from: string | null;
}

export type PruneReport = ReportRow[];

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

/** One row per tensor: copied (and from which), randomly initialised (`fresh`), or dropped. */
export function pruneReport(raw: Record<string, unknown>): PruneReport {
  const plain = (status: "fresh" | "dropped") =>
    list(raw[status]).map((tensor) => ({ tensor: String(tensor), status, from: null }));
  const copied = list(raw.copied)
    .filter(isRecord)
    .map((entry) => ({
      tensor: String(entry.tensor),
      status: "copied" as const,
      from: String(entry.from),
    }));
  return [...copied, ...plain("fresh"), ...plain("dropped")];
}

/** Tensors that were randomly initialised although the run started from a checkpoint. */
export function freshTensors(result: Record<string, unknown>): string[] {
  const report = isRecord(result.report) ? result.report : {};
  return list(result.fresh_tensors ?? report.fresh).map(String);
}
