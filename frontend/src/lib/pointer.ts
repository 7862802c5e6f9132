/** JSON pointers (RFC 6901), as in the server's validation errors; pure. */

export type Path = (string | number)[];

/** `/a/b~1c/0` as its decoded segments. */
export function parsePointer(pointer: string): string[] {
  if (["", "/", "#"].includes(pointer)) return [];
  return pointer
    .replace(/^#?\//, "")
    .split("/")
    .map((segment) => segment.replaceAll("~1", "/").replaceAll("~0", "~"));
}

/** The pointer of a path. */
export function toPointer(path: Path): string {
  return path
    .map((segment) => `/${String(segment).replaceAll("~", "~0").replaceAll("/", "~1")}`)
    .join("");
}

/**
 * The path in `data` that a pointer into the request body refers to.
 *
 * Drops the leading `config` of the request body. Validators of tagged unions put the tag between
 * the field and its content (`/model/scratch/heads`): a segment that names no field but equals one
 * of the sibling values is such a tag, and is dropped too.
 */
export function locate(pointer: string, data: unknown): Path {
  const segments = parsePointer(pointer);
  if (segments[0] === "body") segments.shift();
  if (segments[0] === "config") segments.shift();
  const path: Path = [];
  let current: unknown = data;
  for (const segment of segments) {
    if (Array.isArray(current) && /^\d+$/.test(segment)) {
      path.push(Number(segment));
      current = current[Number(segment)];
      continue;
    }
    if (isRecord(current) && !(segment in current) && Object.values(current).includes(segment))
      continue;
    path.push(segment);
    current = isRecord(current) ? current[segment] : undefined;
  }
  return path;
}

/** The value at a path; undefined if there is none. */
export function valueAt(data: unknown, path: Path): unknown {
  let current: unknown = data;
  for (const segment of path) {
    if (Array.isArray(current)) current = current[Number(segment)];
    else if (isRecord(current)) current = current[String(segment)];
    else return undefined;
  }
  return current;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
