/** The typed client of the REST interface; every failure becomes an `ApiProblem`. */
import createClient from "openapi-fetch";
import { answered, keyFor } from "./idempotency";
import { ApiProblem, toProblem } from "./problem";
import type { paths } from "./schema";

export const client = createClient<paths>({ baseUrl: "", credentials: "same-origin" });

client.use({
  async onRequest({ request }) {
    if (request.method !== "POST") return;
    const key = keyFor(`${request.url}\n${await request.clone().text()}`);
    request.headers.set("Idempotency-Key", key);
  },
  onResponse({ request, response }) {
    answered(request.headers.get("Idempotency-Key"), response.status);
  },
});

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** The answer's body; throws an `ApiProblem` for every other outcome. */
export async function unwrap<T>(request: Promise<Answer<T>>): Promise<T> {
  let answer: Answer<T>;
  try {
    answer = await request;
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiProblem(0, "No connection", "The server cannot be reached. Is it running?");
  }
  if (!answer.response.ok) throw toProblem(answer.response.status, answer.error);
  return answer.data as T;
}
