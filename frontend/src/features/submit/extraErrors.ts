/** Maps the server's validation errors to the form's fields; pure. */
import type { ErrorSchema } from "@rjsf/utils";
import type { FieldProblem } from "@/api/problem";
import { isRecord, locate, type Path, valueAt } from "@/lib/pointer";

export interface LocatedProblem {
  path: Path;
  detail: string;
  /** The rejected value; the problem is cleared when the field's value changes. */
  value: unknown;
}

/** Each problem with the path of its field in the form. */
export function locateProblems(problems: readonly FieldProblem[], data: unknown): LocatedProblem[] {
  return problems.map(({ pointer, detail }) => {
    const path = locate(pointer, data);
    return { path, detail, value: valueAt(data, path) };
  });
}

/** The problems whose field still has the rejected value. */
export function unresolved(problems: readonly LocatedProblem[], data: unknown): LocatedProblem[] {
  return problems.filter(
    (one) =>
      one.path.length === 0 ||
      JSON.stringify(valueAt(data, one.path)) === JSON.stringify(one.value),
  );
}

type Tree = { [key: string]: Tree | string[] };

/** The problems as RJSF's error tree. */
export function toErrorTree(problems: readonly LocatedProblem[]): ErrorSchema {
  const root: Tree = {};
  for (const { path, detail } of problems) {
    let node = root;
    for (const segment of path) {
      const key = String(segment);
      const next = node[key];
      if (isRecord(next)) node = next as Tree;
      else {
        const created: Tree = {};
        node[key] = created;
        node = created;
      }
    }
    const existing = node.__errors;
    node.__errors = Array.isArray(existing) ? [...existing, detail] : [detail];
  }
  return root as ErrorSchema;
}

/** Whether an error tree contains any error. */
export function hasErrors(tree: unknown): boolean {
  if (!isRecord(tree)) return false;
  return Object.entries(tree).some(([key, value]) =>
    key === "__errors" ? Array.isArray(value) && value.length > 0 : hasErrors(value),
  );
}

/** The id of the form element of a path. */
export function elementId(path: Path): string {
  return ["root", ...path.map(String)].join("_");
}

/** The segments of a lodash path as RJSF reports it (`.teacher.layers[0]`). */
export function parseProperty(property: string | undefined): Path {
  return (property ?? "")
    .replace(/\[(\d+)\]/g, ".$1")
    .split(".")
    .filter(Boolean)
    .map((part) => (/^\d+$/.test(part) ? Number(part) : part));
}
