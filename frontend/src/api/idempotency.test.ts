import { expect, test } from "vitest";
import { client } from "./client";

const BASE = "http://server.test";

/** Submits a run to a server that answers with this status, or not at all; returns the key it saw. */
async function submit(name: string, status: number | null): Promise<string | null> {
  let key: string | null = null;
  const fetch = async (request: Request) => {
    key = request.headers.get("Idempotency-Key");
    if (status === null) throw new TypeError("the connection was cut");
    return Response.json({}, { status });
  };
  const body = { name, config: { kind: "teacher" } as never };
  await client.POST("/api/v1/runs", { baseUrl: BASE, fetch, body }).catch(() => null);
  return key;
}

test("a request whose answer was lost is sent again with its key", async () => {
  const first = await submit("cut", null);
  expect(first).toMatch(/^[0-9a-f]{32}$/);
  expect(await submit("cut", 502)).toBe(first);
  expect(await submit("another", 201)).not.toBe(first);
  expect(await submit("cut", 201)).toBe(first);
});

test.each([201, 409, 422])(
  "after an answer of %i the same request is a new one",
  async (status) => {
    const first = await submit("answered", status);
    expect(await submit("answered", 201)).not.toBe(first);
  },
);

test("what only reads carries no key", async () => {
  let headers = new Headers();
  const fetch = async (request: Request) => {
    headers = request.headers;
    return Response.json({});
  };
  await client.GET("/api/v1/presets", { baseUrl: BASE, fetch });
  expect(headers.has("Idempotency-Key")).toBe(false);
});
