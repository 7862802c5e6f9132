/** Flattens a nested config into table rows; pure. */
import type { Config } from "@/api/types";
import { titleInWords } from "@/features/submit/schema";
import { isRecord } from "@/lib/pointer";

export interface Row {
  path: string;
  section: string;
  label: string;
  value: string;
  /** What the value is an id of. */
  refersTo?: "run" | "dataset";
}

const REFERENCES: Partial<Record<string, Row["refersTo"]>> = {
  run_id: "run",
  dataset_id: "dataset",
  validation_dataset_id: "dataset",
};

function show(value: unknown): string {
  if (value === null || value === undefined) return "empty";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.join(", ");
  return String(value);
}

/** One row per value, in the config's order, without `kind`, which the page header shows. */
export function flatten(config: Config, path: string[] = []): Row[] {
  return Object.entries(config).flatMap(([key, value]) => {
    if (path.length === 0 && key === "kind") return [];
    if (isRecord(value)) return flatten(value, [...path, key]);
    return [
      {
        path: [...path, key].join("."),
        section: path.map(titleInWords).join(" › "),
        label: titleInWords(key),
        value: show(value),
        refersTo: typeof value === "string" ? REFERENCES[key] : undefined,
      },
    ];
  });
}
