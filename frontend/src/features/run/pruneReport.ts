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
