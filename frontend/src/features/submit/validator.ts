/**
 * An RJSF validator based on @cfworker/json-schema, which interprets schemas.
 *
 * RJSF's own validator compiles them with `new Function`, which the content security policy blocks.
 */
import { type OutputUnit, Validator } from "@cfworker/json-schema";
import {
  type CustomValidator,
  createErrorHandler,
  type ErrorTransformer,
  type RJSFSchema,
  type RJSFValidationError,
  toErrorSchema,
  type UiSchema,
  unwrapErrorHandler,
  type ValidationData,
  type ValidatorType,
  validationDataMerge,
} from "@rjsf/utils";
import { parsePointer, valueAt } from "@/lib/pointer";
import { isInteger, type Node, withoutUnions } from "./schema";

/** Keywords that only repeat what a deeper error says. */
const WRAPPERS = new Set(["properties", "items", "prefixItems", "$ref", "anyOf", "oneOf", "allOf"]);

function schemaAt(schema: Node, path: string[]): Node | undefined {
  let node: Node | undefined = schema;
  for (const segment of path) {
    const next: unknown = /^\d+$/.test(segment) ? node?.items : node?.properties?.[segment];
    if (typeof next !== "object" || next === null) return undefined;
    node = next as Node;
  }
  return node;
}

/** The message for a keyword that failed. */
function messageFor(keyword: string, node: Node | undefined, value: unknown): string {
  switch (keyword) {
    case "type":
      if (value === undefined || value === null) return "is required";
      if (node && isInteger(node)) return "must be an integer";
      return "must be a number";
    case "minimum":
      return `must be at least ${node?.minimum}`;
    case "maximum":
      return `must be at most ${node?.maximum}`;
    case "exclusiveMinimum":
      return `must be greater than ${node?.exclusiveMinimum}`;
    case "exclusiveMaximum":
      return `must be less than ${node?.exclusiveMaximum}`;
    case "minLength":
      return "is required";
    case "maxLength":
      return `must have at most ${node?.maxLength} characters`;
    case "minItems":
      return "must have at least one entry";
    case "maxItems":
      return `must have at most ${node?.maxItems} entries`;
    case "enum":
      return `must be one of ${(node?.enum ?? []).join(", ")}`;
    case "pattern": {
      const [example] = Array.isArray(node?.examples) ? node.examples : [];
      return example ? `must look like ${example}` : "contains invalid characters";
    }
    default:
      return "is not valid";
  }
}

function missing(unit: OutputUnit, schema: Node, data: unknown): RJSFValidationError[] {
  const path = parsePointer(unit.instanceLocation);
  const node = schemaAt(schema, path);
  const value = valueAt(data, path) as Record<string, unknown> | undefined;
  return (node?.required ?? [])
    .filter((name) => value?.[name] === undefined)
    .map((name) => problem([...path, name], "required", "is required"));
}

function problem(path: string[], name: string, message: string): RJSFValidationError {
  // RJSF expects a lodash path: `.name` for fields, `[0]` for list items.
  const property = path.map((part) => (/^\d+$/.test(part) ? `[${part}]` : `.${part}`)).join("");
  return { name, property, message, stack: `${path.join(" › ")} ${message}` };
}

/** Every validation error of `data` once, at the deepest field. */
export function findProblems(schema: Node, data: unknown): RJSFValidationError[] {
  const plain = withoutUnions(schema, data);
  const checker = new Validator(
    plain as ConstructorParameters<typeof Validator>[0],
    "2020-12",
    false,
  );
  const found = new Map<string, RJSFValidationError>();
  for (const unit of checker.validate(data ?? {}).errors) {
    if (WRAPPERS.has(unit.keyword)) continue;
    const path = parsePointer(unit.instanceLocation);
    const list =
      unit.keyword === "required"
        ? missing(unit, plain, data)
        : [
            problem(
              path,
              unit.keyword,
              messageFor(unit.keyword, schemaAt(plain, path), valueAt(data, path)),
            ),
          ];
    for (const one of list) {
      if (!found.has(one.property ?? "")) found.set(one.property ?? "", one);
    }
  }
  return [...found.values()];
}

type Data = Record<string, unknown>;

/** The validator of all forms. */
export const validator: ValidatorType<Data, RJSFSchema> = {
  validateFormData(
    formData: Data | undefined,
    schema: RJSFSchema,
    customValidate?: CustomValidator<Data, RJSFSchema>,
    transformErrors?: ErrorTransformer<Data, RJSFSchema>,
    uiSchema?: UiSchema<Data, RJSFSchema>,
  ): ValidationData<Data> {
    let errors = findProblems(schema as Node, formData);
    if (transformErrors) errors = transformErrors(errors, uiSchema);
    const result = { errors, errorSchema: toErrorSchema<Data>(errors) };
    if (!customValidate) return result;
    const handler = customValidate(formData, createErrorHandler<Data>(formData ?? {}), uiSchema);
    return validationDataMerge<Data>(result, unwrapErrorHandler<Data>(handler));
  },
  isValid(schema: RJSFSchema, formData: Data | undefined): boolean {
    return findProblems(schema as Node, formData).length === 0;
  },
  rawValidation<Result>(schema: RJSFSchema, formData?: Data): { errors?: Result[] } {
    return { errors: findProblems(schema as Node, formData) as Result[] };
  },
};
