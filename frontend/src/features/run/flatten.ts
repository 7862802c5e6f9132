/** Flattens a nested config into table rows; pure. */
import type { Config } from "@/api/types";
import { type Node, titlesOf } from "@/features/submit/schema";
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

function leaves(value: unknown, path: string[]): { path: string[]; value: unknown }[] {
  if (!isRecord(value)) return [{ path, value }];
  return Object.entries(value).flatMap(([key, child]) => leaves(child, [...path, key]));
}

/**
 * One row per value, in the config's order, without `kind`, which the page header shows. Titles are
 * those of the form's schema.
 */
export function flatten(config: Config, schema: Node): Row[] {
  const { kind: _, ...shown } = config;
  return leaves(shown, []).map(({ path, value }) => {
    const titles = titlesOf(schema, config, path);
    return {
      path: path.join("."),
      section: titles.slice(0, -1).join(" › "),
      label: titles.at(-1) ?? "",
      value: show(value),
      refersTo: typeof value === "string" ? REFERENCES[path.at(-1) ?? ""] : undefined,
    };
  });
}
