/** The queries that the pages send to the server, with their cache keys. */
import { keepPreviousData, QueryClient, queryOptions } from "@tanstack/react-query";
import { client, unwrap } from "./client";
import { ApiProblem, isStatus } from "./problem";
import type { FormKind, RunFilter } from "./types";

const LIST_REFRESH_MS = 3000;
const SLOW_REFRESH_MS = 10_000;

export function createQueryClient(): QueryClient {
  return new QueryClient({
    defaultOptions: {
      queries: {
        staleTime: 1000,
        // Client errors are final; retry only while the server is unreachable or busy.
        retry: (count, error) =>
          count < 3 && error instanceof ApiProblem && (error.status === 0 || error.status >= 502),
      },
    },
  });
}

export const sessionQuery = queryOptions({
  queryKey: ["session"],
  queryFn: async ({ signal }) => {
    try {
      return await unwrap(client.GET("/api/v1/session", { signal }));
    } catch (error) {
      if (isStatus(error, 401)) return null;
      throw error;
    }
  },
  staleTime: 60_000,
});

export const runsQuery = (filter: RunFilter, refresh = true) =>
  queryOptions({
    queryKey: ["runs", filter],
    queryFn: ({ signal }) =>
      unwrap(client.GET("/api/v1/runs", { params: { query: filter }, signal })),
    placeholderData: keepPreviousData,
    refetchInterval: refresh ? LIST_REFRESH_MS : false,
  });

export const runQuery = (id: string) =>
  queryOptions({
    queryKey: ["run", id],
    queryFn: ({ signal }) =>
      unwrap(client.GET("/api/v1/runs/{run_id}", { params: { path: { run_id: id } }, signal })),
  });

export const artifactsQuery = (id: string) =>
  queryOptions({
    queryKey: ["run", id, "artifacts"],
    queryFn: ({ signal }) =>
      unwrap(
        client.GET("/api/v1/runs/{run_id}/artifacts", {
          params: { path: { run_id: id } },
          signal,
        }),
      ),
  });

export const schemaQuery = (kind: FormKind) =>
  queryOptions({
    queryKey: ["schema", kind],
    queryFn: ({ signal }) =>
      unwrap(client.GET("/api/v1/schema/{kind}", { params: { path: { kind } }, signal })),
    staleTime: Number.POSITIVE_INFINITY,
  });

export const presetsQuery = queryOptions({
  queryKey: ["presets"],
  queryFn: ({ signal }) => unwrap(client.GET("/api/v1/presets", { signal })),
  staleTime: Number.POSITIVE_INFINITY,
});

export const datasetsQuery = (kind?: "text" | "tokenizer") =>
  queryOptions({
    queryKey: ["datasets", kind ?? "all"],
    queryFn: ({ signal }) =>
      unwrap(client.GET("/api/v1/datasets", { params: { query: { kind } }, signal })),
  });

export const workersQuery = queryOptions({
  queryKey: ["workers"],
  queryFn: ({ signal }) => unwrap(client.GET("/api/v1/workers", { signal })),
  refetchInterval: SLOW_REFRESH_MS,
});

export const tokensQuery = queryOptions({
  queryKey: ["tokens"],
  queryFn: ({ signal }) => unwrap(client.GET("/api/v1/tokens", { signal })),
});
