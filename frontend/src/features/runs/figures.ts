/** Labels and formatted values of a run's figures, by the server's definitions; pure. */
import type { Figure, ResultSchema } from "@/api/types";
import { formatCount, formatDecimal, formatDuration, formatShare, formatShort } from "@/lib/format";

type Result = Record<string, unknown> | null;

/** A figure without a definition is shown under its name. */
function undefinedFigure(name: string): Figure {
  return { name, label: name, description: "", format: "decimal", digits: 4, kinds: [] };
}

function formatPlain(value: unknown): string {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (!Array.isArray(value)) return String(value);
  return value.join(value.every((one) => typeof one === "string") ? "; " : ", ");
}

/** `value` in the figure's format, without its unit. */
export function figureText(figure: Figure, value: unknown): string {
  if (typeof value !== "number") return formatPlain(value);
  switch (figure.format) {
    case "integer":
      return formatCount(value);
    case "short":
      return formatShort(value);
    case "percent":
      return formatShare(value);
    case "duration":
      return formatDuration(value);
    case "plain":
      return String(value);
    case "decimal":
      return Number.isInteger(value) ? formatCount(value) : formatDecimal(value, figure.digits);
  }
}

interface ResultRow {
  key: string;
  label: string;
  description: string;
  text: string;
  unit: string;
}

function row(figure: Figure, value: unknown): ResultRow {
  const unit = figure.format === "duration" ? "" : (figure.unit ?? "");
  const { name, label, description } = figure;
  return { key: name, label, description, text: figureText(figure, value), unit };
}

/**
 * The figures of a result: those that the server defines, in its order, then all others. Missing
 * values and nested objects, such as the report on pruned tensors, are left out.
 */
export function resultRows(result: Result, schema: ResultSchema | undefined): ResultRow[] {
  const defined = schema?.results ?? [];
  const names = new Set(defined.map((figure) => figure.name));
  const others = Object.keys(result ?? {}).filter((name) => !names.has(name));
  return [...defined, ...others.map(undefinedFigure)].flatMap((figure) => {
    const value = result?.[figure.name];
    const missing = value === null || value === undefined;
    return missing || (typeof value === "object" && !Array.isArray(value))
      ? []
      : [row(figure, value)];
  });
}

/** The main result of a finished run. */
export function keyResult(result: Result, schema: ResultSchema | undefined): ResultRow | null {
  const rows = resultRows(result, schema);
  for (const name of schema?.key_results ?? []) {
    const found = rows.find((one) => one.key === name);
    if (found) return found;
  }
  return null;
}

/** The definition of a result or of a metric series. */
export function figureOf(figures: readonly Figure[] | undefined, name: string): Figure {
  return figures?.find((figure) => figure.name === name) ?? undefinedFigure(name);
}
