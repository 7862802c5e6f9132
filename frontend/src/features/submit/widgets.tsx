/** The form's inputs: numbers with units, selects, switches, lists, runs and uploads. */
import { Group, Select, Switch, Text, TextInput } from "@mantine/core";
import { useDebouncedValue } from "@mantine/hooks";
import type { FieldProps, RegistryWidgetsType, WidgetProps } from "@rjsf/utils";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { datasetsQuery, runQuery, runsQuery } from "@/api/queries";
import type { RunKind, RunSummary } from "@/api/types";
import { UploadButton } from "@/features/datasets/UploadButton";
import { KIND_LABELS } from "@/features/runs/labels";
import { formatAgo, formatCount, formatNumber } from "@/lib/format";
import type { Node } from "./schema";

/** The hint of a field: its description, and its default if the value differs. */
function hint(schema: Node, value: unknown): string | undefined {
  const text = schema.description?.replace(/\s+/g, " ");
  const preset = schema.default;
  if (preset === undefined || preset === value || typeof preset === "object") return text;
  const shown = typeof preset === "boolean" ? (preset ? "on" : "off") : String(preset);
  return `${text ?? ""} Default: ${shown}.`.trim();
}

function errorOf(props: WidgetProps): string | undefined {
  return props.rawErrors?.join("; ") || undefined;
}

/** A number as text: 5e-5 is easier to read and type than 0.00005. */
function numberText(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential().replace("e-0", "e-");
  return String(value);
}

function parseNumber(text: string, nullable: boolean): number | string | null | undefined {
  const trimmed = text.trim().replace(",", ".");
  if (trimmed === "") return nullable ? null : undefined;
  const value = Number(trimmed);
  // Text that is not a number is kept as typed; the validator reports it at the field.
  return Number.isFinite(value) ? value : trimmed;
}

function NumberWidget(props: WidgetProps) {
  const schema = props.schema as Node;
  const nullable = schema.nullable ?? false;
  const [text, setText] = useState(numberText(props.value));

  // A new value from outside (preset, reset) replaces the text; the user's typing does not.
  useEffect(() => {
    setText((current) =>
      parseNumber(current, nullable) === (props.value ?? (nullable ? null : undefined))
        ? current
        : numberText(props.value),
    );
  }, [props.value, nullable]);

  return (
    <TextInput
      id={props.id}
      label={props.label}
      description={hint(schema, props.value)}
      inputMode="decimal"
      autoComplete="off"
      placeholder={nullable ? "empty" : undefined}
      value={text}
      error={errorOf(props)}
      disabled={props.disabled || props.readonly}
      onChange={(event) => {
        setText(event.currentTarget.value);
        props.onChange(parseNumber(event.currentTarget.value, nullable));
      }}
      onBlur={() => props.onBlur(props.id, props.value)}
      rightSection={
        schema.unit ? (
          <Text size="xs" c="dimmed" pr={8}>
            {schema.unit}
          </Text>
        ) : undefined
      }
      rightSectionWidth={schema.unit ? 14 + schema.unit.length * 7 : undefined}
      rightSectionPointerEvents="none"
      className="numeric"
    />
  );
}

function LineWidget(props: WidgetProps) {
  const schema = props.schema as Node;
  const nullable = schema.nullable ?? false;
  return (
    <TextInput
      id={props.id}
      label={props.label}
      description={hint(schema, props.value)}
      autoComplete="off"
      spellCheck={false}
      placeholder={nullable ? "empty" : undefined}
      value={typeof props.value === "string" ? props.value : ""}
      error={errorOf(props)}
      disabled={props.disabled || props.readonly}
      onChange={(event) => {
        const text = event.currentTarget.value;
        props.onChange(text === "" && nullable ? null : text);
      }}
      onBlur={() => props.onBlur(props.id, props.value)}
    />
  );
}

function ChoiceWidget(props: WidgetProps) {
  const schema = props.schema as Node;
  return (
    <Select
      id={props.id}
      label={props.label}
      description={hint(schema, props.value)}
      data={(schema.enum ?? []).map(String)}
      value={typeof props.value === "string" ? props.value : null}
      onChange={(value) => props.onChange(value ?? undefined)}
      allowDeselect={false}
      error={errorOf(props)}
      disabled={props.disabled || props.readonly}
    />
  );
}

function ToggleWidget(props: WidgetProps) {
  return (
    <Switch
      id={props.id}
      label={props.label}
      description={hint(props.schema as Node, props.value)}
      checked={props.value === true}
      onChange={(event) => props.onChange(event.currentTarget.checked)}
      error={errorOf(props)}
      disabled={props.disabled || props.readonly}
      mt={6}
    />
  );
}

/** The kinds of run that can be selected, by the role of the field. */
const KINDS_FOR: Record<string, RunKind[]> = {
  teacher: ["teacher", "distill"],
  student: ["prune", "distill"],
  model: ["teacher", "prune", "distill"],
};
const UNAVAILABLE_STATES = new Set(["failed", "cancelled", "cancelling", "skipped"]);

function runLabel(run: RunSummary): string {
  const pending = run.state === "succeeded" ? "" : ` · ${run.state}`;
  return `${run.name} · ${run.id}${pending}`;
}

/** The field that a widget's `run_id` belongs to: `root_distill_teacher_run_id` is `teacher`. */
export function roleOf(id: string): string {
  return (
    id
      .replace(/_run_id$/, "")
      .split("_")
      .at(-1) ?? ""
  );
}

function RunWidget(props: WidgetProps) {
  const [search, setSearch] = useState("");
  const [query] = useDebouncedValue(search.split(" · ")[0]?.trim() ?? "", 250);
  const kinds = KINDS_FOR[roleOf(props.id)] ?? ["teacher"];
  const found = useQuery(runsQuery({ q: query || undefined, limit: 200 }, false));
  const known = found.data?.items ?? [];
  const missing = typeof props.value === "string" && !known.some((run) => run.id === props.value);
  const picked = useQuery({
    ...runQuery(missing && props.value.length === 12 ? props.value : ""),
    enabled: missing && props.value.length === 12,
    retry: false,
  });
  const runs = [...(picked.data ? [picked.data as RunSummary] : []), ...known].filter(
    (run) =>
      run.id === props.value || (kinds.includes(run.kind) && !UNAVAILABLE_STATES.has(run.state)),
  );
  const data = kinds
    .map((kind) => ({
      group: KIND_LABELS[kind],
      items: runs
        .filter((run) => run.kind === kind)
        .map((run) => ({ value: run.id, label: runLabel(run) })),
    }))
    .filter((group) => group.items.length > 0);
  return (
    <Select
      id={props.id}
      label={props.label}
      description={hint(props.schema as Node, props.value)}
      placeholder="Select a run"
      searchable
      searchValue={search}
      onSearchChange={setSearch}
      // The server has already searched names and ids.
      filter={({ options }) => options}
      nothingFoundMessage={found.isFetching ? "Searching …" : "No matching runs"}
      data={data}
      value={typeof props.value === "string" ? props.value : null}
      onChange={(value) => props.onChange(value ?? undefined)}
      error={errorOf(props)}
      disabled={props.disabled || props.readonly}
      maxDropdownHeight={280}
    />
  );
}

function DatasetWidget(props: WidgetProps) {
  const schema = props.schema as Node;
  const kind = props.id.includes("tokenizer") ? "tokenizer" : "text";
  const datasets = useQuery(datasetsQuery(kind));
  return (
    <div>
      <Select
        id={props.id}
        label={props.label}
        description={hint(schema, props.value)}
        placeholder={schema.nullable ? "none" : "Select an upload"}
        searchable
        clearable={schema.nullable}
        nothingFoundMessage="No uploads yet"
        data={(datasets.data?.items ?? []).map((dataset) => ({
          value: dataset.id,
          label: dataset.documents
            ? `${dataset.name} · ${formatCount(dataset.documents)} documents · ${formatAgo(dataset.created_at)}`
            : `${dataset.name} · ${formatAgo(dataset.created_at)}`,
        }))}
        value={typeof props.value === "string" ? props.value : null}
        onChange={(value) => props.onChange(value ?? (schema.nullable ? null : undefined))}
        error={errorOf(props)}
        disabled={props.disabled || props.readonly}
      />
      <Group mt={4}>
        <UploadButton
          compact
          kind={kind}
          label={kind === "text" ? "Upload text" : "Upload tokenizer"}
          onUploaded={(dataset) => props.onChange(dataset.id)}
        />
      </Group>
    </div>
  );
}

/** Parses `0, 2, 4`; null if anything else is in the text. */
export function parseIntegers(text: string): number[] | null {
  const parts = text.split(/[\s,;]+/).filter(Boolean);
  return parts.every((part) => /^\d+$/.test(part)) ? parts.map(Number) : null;
}

/** A list of integers, typed with commas. */
export function IntegersField(props: FieldProps) {
  const schema = props.schema as Node;
  const values = Array.isArray(props.formData) ? (props.formData as number[]) : [];
  const [text, setText] = useState(values.join(", "));
  const parsed = parseIntegers(text);
  const joined = values.join(",");

  useEffect(() => {
    setText((current) =>
      parseIntegers(current)?.join(",") === joined ? current : joined.replaceAll(",", ", "),
    );
  }, [joined]);

  const own = Object.values(props.errorSchema ?? {})
    .flatMap((part) =>
      Array.isArray(part) ? part : ((part as { __errors?: string[] }).__errors ?? []),
    )
    .join("; ");
  return (
    <TextInput
      id={props.fieldPathId.$id}
      label={schema.title}
      description={schema.description}
      placeholder={formatNumber(0)}
      inputMode="numeric"
      autoComplete="off"
      value={text}
      error={parsed === null ? "must be integers separated by commas" : own || undefined}
      onChange={(event) => {
        const next = event.currentTarget.value;
        setText(next);
        const numbers = parseIntegers(next);
        if (numbers) props.onChange(numbers, props.fieldPathId.path);
      }}
    />
  );
}

export const widgets: RegistryWidgetsType = {
  number: NumberWidget,
  line: LineWidget,
  choice: ChoiceWidget,
  toggle: ToggleWidget,
  run: RunWidget,
  dataset: DatasetWidget,
};
