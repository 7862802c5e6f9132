/** Maps the server's errors (RFC 9457 problem+json) to one exception type; pure. */
import { capitalise } from "@/lib/format";
import { isRecord } from "@/lib/pointer";

export interface FieldProblem {
  pointer: string;
  detail: string;
}

/** A failed request, with a message that can be shown to the user. */
export class ApiProblem extends Error {
  constructor(
    /** HTTP status; 0 when the server could not be reached. */
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly errors: FieldProblem[] = [],
  ) {
    super(detail || title);
    this.name = "ApiProblem";
  }
}

const TITLES: Record<number, string> = {
  401: "Not signed in",
  403: "Not allowed",
  404: "Not found",
  413: "Too large",
  502: "The server is not running",
  503: "Temporarily unavailable",
};

/** The exception for a response's status and body; the body may be anything. */
export function toProblem(status: number, body: unknown): ApiProblem {
  const title = TITLES[status] ?? `Unexpected response (HTTP ${status})`;
  if (!isRecord(body)) return new ApiProblem(status, title, title);
  const errors = Array.isArray(body.errors) ? body.errors.filter(isFieldProblem) : [];
  return new ApiProblem(
    status,
    typeof body.title === "string" ? body.title : title,
    typeof body.detail === "string" ? body.detail : title,
    errors,
  );
}

function isFieldProblem(value: unknown): value is FieldProblem {
  return isRecord(value) && typeof value.pointer === "string" && typeof value.detail === "string";
}

/** The message to show for any error. */
export function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message : "";
  return capitalise(text || "something went wrong");
}

export function isStatus(error: unknown, status: number): boolean {
  return error instanceof ApiProblem && error.status === status;
}
