/** The server's problems at the form's fields; pure. */
import type { ErrorSchema } from "@rjsf/utils";
import type { FieldProblem } from "@/api/problem";
import { isRecord, locate, type Path, valueAt } from "@/lib/pointer";

export interface PlacedProblem {
  path: Path;
  detail: string;
  /** The field's value when it was refused: a change of it settles the problem. */
  value: unknown;
}

/** Each problem with the place in the form that it means. */
export function placeProblems(problems: readonly FieldProblem[], data: unknown): PlacedProblem[] {
  return problems.map(({ pointer, detail }) => {
    const path = locate(pointer, data);
    return { path, detail, value: valueAt(data, path) };
  });
}

/** The problems whose field still has the value that was refused. */
export function unsettled(problems: readonly PlacedProblem[], data: unknown): PlacedProblem[] {
  return problems.filter(
    (one) =>
      one.path.length === 0 ||
      JSON.stringify(valueAt(data, one.path)) === JSON.stringify(one.value),
  );
}

type Tree = { [key: string]: Tree | string[] };

/** The problems as RJSF's tree of errors. */
export function toErrorTree(problems: readonly PlacedProblem[]): ErrorSchema {
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
    const held = node.__errors;
    node.__errors = Array.isArray(held) ? [...held, detail] : [detail];
  }
  return root as ErrorSchema;
}

/** Whether a tree of errors holds any. */
export function hasErrors(tree: unknown): boolean {
  if (!isRecord(tree)) return false;
  return Object.entries(tree).some(([key, value]) =>
    key === "__errors" ? Array.isArray(value) && value.length > 0 : hasErrors(value),
  );
}

/** The id of the form's element for a path. */
export function elementId(path: Path): string {
  return ["root", ...path.map(String)].join("_");
}

/** A lodash path as RJSF reports it (`.teacher.layers[0]`) as segments. */
export function parseProperty(property: string | undefined): Path {
  return (property ?? "")
    .replace(/\[(\d+)\]/g, ".$1")
    .split(".")
    .filter(Boolean)
    .map((part) => (/^\d+$/.test(part) ? Number(part) : part));
}
