import { expect, test } from "vitest";
import { client } from "./client";

const BASE = "http://server.test";

/** Submits a run to a server that returns this status, or no response; returns the key it received. */
async function submit(name: string, status: number | null): Promise<string | null> {
  let key: string | null = null;
  const fetch = async (request: Request) => {
    key = request.headers.get("Idempotency-Key");
    if (status === null) throw new TypeError("connection closed");
    return Response.json({}, { status });
  };
  const body = { name, config: { kind: "teacher" } as never };
  await client.POST("/api/v1/runs", { baseUrl: BASE, fetch, body }).catch(() => null);
  return key;
}

test("a request whose response was lost is retried with the same key", async () => {
  const first = await submit("cut", null);
  expect(first).toMatch(/^[0-9a-f]{32}$/);
  expect(await submit("cut", 502)).toBe(first);
  expect(await submit("another", 201)).not.toBe(first);
  expect(await submit("cut", 201)).toBe(first);
});

test.each([201, 409, 422])(
  "after a response of %i the same request gets a new key",
  async (status) => {
    const first = await submit("answered", status);
    expect(await submit("answered", 201)).not.toBe(first);
  },
);

test("a GET request has no key", async () => {
  let headers = new Headers();
  const fetch = async (request: Request) => {
    headers = request.headers;
    return Response.json({});
  };
  await client.GET("/api/v1/presets", { baseUrl: BASE, fetch });
  expect(headers.has("Idempotency-Key")).toBe(false);
});
