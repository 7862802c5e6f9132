/** JSON pointers (RFC 6901), as the server's problems use them; pure. */

export type Path = (string | number)[];

/** `/a/b~1c/0` as its decoded segments. */
export function parsePointer(pointer: string): string[] {
  if (pointer === "" || pointer === "/") return [];
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
 * The place in `data` that a pointer of the request body means.
 *
 * The envelope's `config` goes. Validators of tagged unions put the tag between the field and its
 * content (`/model/scratch/heads`): a segment that names no field but equals one of the values
 * beside it is such a tag, and goes too.
 */
export function locate(pointer: string, data: unknown): Path {
  const segments = parsePointer(pointer);
  if (segments[0] === "body") segments.shift();
  if (segments[0] === "config") segments.shift();
  const path: Path = [];
  let here: unknown = data;
  for (const segment of segments) {
    if (Array.isArray(here) && /^\d+$/.test(segment)) {
      path.push(Number(segment));
      here = here[Number(segment)];
      continue;
    }
    if (isRecord(here) && !(segment in here) && Object.values(here).includes(segment)) continue;
    path.push(segment);
    here = isRecord(here) ? here[segment] : undefined;
  }
  return path;
}

/** The value at a path, undefined where there is none. */
export function valueAt(data: unknown, path: Path): unknown {
  let here: unknown = data;
  for (const segment of path) {
    if (Array.isArray(here)) here = here[Number(segment)];
    else if (isRecord(here)) here = here[String(segment)];
    else return undefined;
  }
  return here;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
