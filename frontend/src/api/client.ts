/** The typed client of the REST API; every failure becomes an `ApiProblem`. */
import createClient from "openapi-fetch";
import { idempotencyKey, releaseKey } from "./idempotency";
import { ApiProblem, toProblem } from "./problem";
import type { paths } from "./schema";

export const client = createClient<paths>({ baseUrl: "", credentials: "same-origin" });

client.use({
  async onRequest({ request }) {
    if (request.method !== "POST") return;
    const key = idempotencyKey(`${request.url}\n${await request.clone().text()}`);
    request.headers.set("Idempotency-Key", key);
  },
  onResponse({ request, response }) {
    releaseKey(request.headers.get("Idempotency-Key"), response.status);
  },
});

interface ApiResponse<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** The body of a successful response; throws an `ApiProblem` otherwise. */
export async function unwrap<T>(request: Promise<ApiResponse<T>>): Promise<T> {
  let result: ApiResponse<T>;
  try {
    result = await request;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiProblem(0, "No connection", "The server cannot be reached. Is it running?");
  }
  if (!result.response.ok) throw toProblem(result.response.status, result.error);
  return result.data as T;
}
