/**
 * Turns the server's JSON Schema into the one that the form renders; pure.
 *
 * References are inlined, nullable fields become one field that may be empty, tagged unions get
 * titles, and every default is moved to its own field.
 */
import type { RJSFSchema, UiSchema } from "@rjsf/utils";
import { isRecord, type Path } from "@/lib/pointer";

/** A schema node with additional keys that the templates read. */
export type Node = RJSFSchema & {
  unit?: string;
  /** The field may be empty, which is sent as null. */
  nullable?: boolean;
  /** The property whose value identifies the option of a union. */
  tag?: string;
};

interface FormSchema {
  schema: Node;
  uiSchema: UiSchema;
}

function resolve(node: Node, root: Node): Node {
  let current = node;
  while (typeof current.$ref === "string") {
    const name = current.$ref.replace("#/$defs/", "");
    const target = root.$defs?.[name];
    if (!isRecord(target)) throw new Error(`the schema lacks ${current.$ref}`);
    const { $ref: _, ...siblings } = current;
    current = { ...(target as Node), ...siblings };
  }
  return current;
}

/** `anyOf [X, null]` as X that may be empty. */
function flattenNullable(node: Node, root: Node): Node {
  if (!Array.isArray(node.anyOf)) return node;
  const options = node.anyOf.map((option) => resolve(option as Node, root));
  const real = options.filter((option) => option.type !== "null");
  const [only] = real;
  if (real.length !== 1 || options.length !== 2 || !only) return node;
  const { anyOf: _, ...rest } = node;
  return { ...only, ...rest, type: [String(only.type), "null"] as Node["type"], nullable: true };
}

function prepareUnion(node: Node, root: Node): Node {
  const tag = String((node.discriminator as { propertyName?: string })?.propertyName ?? "source");
  const options = (node.oneOf ?? []).map((option) => prepareNode(option as Node, root));
  const { discriminator: _, ...rest } = node;
  return { ...rest, oneOf: options, tag } as Node;
}

/** The constant that marks an option of a union. */
export function tagOf(option: Node, tag: string): string {
  const property = option.properties?.[tag];
  return isRecord(property) ? String(property.const ?? property.default ?? "") : "";
}

function prepareNode(raw: Node, root: Node): Node {
  const node = flattenNullable(resolve(raw, root), root);
  if (Array.isArray(node.oneOf)) return prepareUnion(node, root);
  if (node.type !== "object" || !node.properties) return node;
  const defaults = isRecord(node.default) ? node.default : {};
  const properties: Record<string, Node> = {};
  for (const [name, child] of Object.entries(node.properties)) {
    const own = child as Node;
    const inherited =
      name in defaults ? { ...own, default: defaults[name] as Node["default"] } : own;
    properties[name] = prepareNode(inherited, root);
  }
  // An emptied field must not silently take its default: what is shown is what is sent.
  return { ...node, properties, required: Object.keys(properties) } as Node;
}

/** The widgets of the fields that select a run or a dataset. */
const PICKERS: Record<string, string> = {
  run_id: "run",
  dataset_id: "dataset",
  validation_dataset_id: "dataset",
};

function uiOf(node: Node, name: string): UiSchema {
  if (Array.isArray(node.oneOf)) {
    return { "ui:field": "union", "ui:options": { fieldReplacesAnyOrOneOf: true } };
  }
  if (node.const !== undefined) return { "ui:widget": "hidden" };
  if (node.type === "array") return { "ui:field": "integers" };
  if (PICKERS[name]) return { "ui:widget": PICKERS[name] };
  if (node.type === "object" && node.properties) {
    const ui: UiSchema = {};
    for (const [child, schema] of Object.entries(node.properties)) {
      ui[child] = uiOf(schema as Node, child);
    }
    return ui;
  }
  if (node.enum) return { "ui:widget": "choice" };
  if (node.type === "boolean") return { "ui:widget": "toggle" };
  if (isNumeric(node)) return { "ui:widget": "number" };
  return { "ui:widget": "line" };
}

function isNumeric(node: Node): boolean {
  const types = Array.isArray(node.type) ? node.type : [node.type];
  return types.includes("number") || types.includes("integer");
}

export function isInteger(node: Node): boolean {
  return (Array.isArray(node.type) ? node.type : [node.type]).includes("integer");
}

/** The form's schema and its UI schema, from the server's schema. */
export function prepareSchema(serverSchema: Node): FormSchema {
  const prepared = prepareNode(serverSchema, serverSchema);
  const { $defs: _, ...schema } = prepared;
  return { schema: schema as Node, uiSchema: uiOf(schema as Node, "") };
}

/** The UI schema of one option of a union. */
export function optionUi(option: Node): UiSchema {
  return uiOf(option, "");
}

/** The option of a union that `value` belongs to; the first one if none fits. */
export function chosenOption(union: Node, value: unknown): Node | undefined {
  const options = (union.oneOf ?? []) as Node[];
  const tag = union.tag ?? "";
  const wanted = isRecord(value) ? value[tag] : undefined;
  return options.find((option) => tagOf(option, tag) === wanted) ?? options[0];
}

/** The titles along a path into `data`; parts that the schema does not know stay as they are. */
export function titlesOf(schema: Node, data: unknown, path: Path): string[] {
  let node: Node | undefined = schema;
  let value = data;
  return path.map((part) => {
    const object: Node | undefined = node?.oneOf ? chosenOption(node, value) : node;
    node = object?.properties?.[part] as Node | undefined;
    value = isRecord(value) ? value[part] : undefined;
    return node?.title ?? String(part);
  });
}

/** A complete value for `node`: `value`, with defaults for everything that it leaves out. */
export function fill(node: Node, value?: unknown): unknown {
  const given = value === undefined ? node.default : value;
  if (Array.isArray(node.oneOf)) {
    const fallback = isRecord(node.default) ? node.default : undefined;
    const option = chosenOption(node, given ?? fallback);
    return option ? fill(option, sameTag(node, option, given) ? given : undefined) : given;
  }
  if (node.const !== undefined) return node.const;
  if (node.type === "object" && node.properties) {
    const record = isRecord(given) ? given : {};
    const result: Record<string, unknown> = {};
    for (const [name, child] of Object.entries(node.properties)) {
      const filled = fill(child as Node, record[name]);
      if (filled !== undefined) result[name] = filled;
    }
    return result;
  }
  return given;
}

function sameTag(union: Node, option: Node, value: unknown): boolean {
  const tag = union.tag ?? "";
  return isRecord(value) && value[tag] === tagOf(option, tag);
}

/** `node` with every union replaced by the option selected in `data`. */
export function withoutUnions(node: Node, data: unknown): Node {
  if (Array.isArray(node.oneOf)) {
    const option = chosenOption(node, data);
    return option ? withoutUnions(option, data) : {};
  }
  if (node.type !== "object" || !node.properties) return node;
  const properties: Record<string, Node> = {};
  for (const [name, child] of Object.entries(node.properties)) {
    properties[name] = withoutUnions(child as Node, isRecord(data) ? data[name] : undefined);
  }
  return { ...node, properties } as Node;
}
