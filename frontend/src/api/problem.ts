/** The server's errors (RFC 9457 problem+json) as one exception; pure. */
import { sentence } from "@/lib/format";
import { isRecord } from "@/lib/pointer";

export interface FieldProblem {
  pointer: string;
  detail: string;
}

/** Any request that did not work, with a message fit to be shown. */
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

/** The exception for an answer's status and body, whatever the body is. */
export function toProblem(status: number, body: unknown): ApiProblem {
  const title = TITLES[status] ?? `The server answered ${status}`;
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

/** What to tell a person about any error, as a sentence. */
export function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message : "";
  return sentence(text || "something went wrong");
}

export function isStatus(error: unknown, status: number): boolean {
  return error instanceof ApiProblem && error.status === status;
}
