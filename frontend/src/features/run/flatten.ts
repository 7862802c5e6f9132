/** A nested config as rows of a table; pure. */
import type { Config } from "@/api/types";
import { titleInWords } from "@/features/submit/schema";
import { isRecord } from "@/lib/pointer";

export interface Row {
  path: string;
  section: string;
  label: string;
  value: string;
  /** What the value is the id of. */
  names?: "run" | "dataset";
}

const REFERENCES: Partial<Record<string, Row["names"]>> = {
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

/** One row for each value, in the config's order; `kind` goes, the page says it. */
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
        names: typeof value === "string" ? REFERENCES[key] : undefined,
      },
    ];
  });
}
