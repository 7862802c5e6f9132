/** Keeps a run's page up to date with the event stream, or with polling while the stream fails. */
import { type QueryClient, useQueryClient } from "@tanstack/react-query";
import { EventSourceParserStream } from "eventsource-parser/stream";
import { useEffect, useState } from "react";
import { client, unwrap } from "@/api/client";
import { ApiProblem, isStatus, messageOf } from "@/api/problem";
import { runQuery } from "@/api/queries";
import type { RunDetail } from "@/api/types";
import { isFinal } from "@/features/runs/labels";
import { EMPTY, type LiveAction, type LiveState, type LogLine, longest, reduceAll } from "./live";

const FLUSH_MS = 250;
const POLL_MS = 3000;
const RETRY_MS = 1000;
/** Consecutive failures of the stream before the page falls back to polling. */
const STREAM_FAILURES = 3;
/** Polls between two attempts to open the stream again. */
const POLLS_PER_STREAM = 10;
/** Longer curves are fetched again, downsampled by the server, so that they stay bounded. */
const RESAMPLE_POINTS = 6000;
const LOG_PAGE = 2000;

export type Connection = "loading" | "live" | "polling" | "ended";

export interface Live {
  state: LiveState;
  connection: Connection;
  error: string | null;
}

/** Browsers open at most six connections to a server across all tabs, so hidden tabs close theirs. */
function abortedWhenHidden(): AbortSignal {
  const controller = new AbortController();
  document.addEventListener("visibilitychange", () => controller.abort(), { once: true });
  return controller.signal;
}

/** The live feed of one run; reports every change through `emit`. */
class Feed {
  private readonly abort = new AbortController();
  private queue: LiveAction[] = [];
  private state: LiveState = EMPTY;
  private timer: number | undefined;
  private ended = false;

  constructor(
    private readonly id: string,
    private readonly queryClient: QueryClient,
    private readonly emit: (update: Partial<Live>) => void,
  ) {}

  stop(): void {
    this.abort.abort();
    window.clearTimeout(this.timer);
  }

  async run(): Promise<void> {
    let failures = 0;
    let polls = 0;
    let loaded = false;
    while (!this.abort.signal.aborted) {
      try {
        await this.untilVisible();
        if (!loaded) {
          await this.load();
          loaded = true;
        }
        if (this.ended || (await this.isComplete())) return this.finish();
        if (failures < STREAM_FAILURES) {
          await this.stream(() => {
            failures = 0;
          });
        } else {
          this.emit({ connection: "polling", error: null });
          await this.poll();
          await this.pause(POLL_MS);
          polls += 1;
          if (polls % POLLS_PER_STREAM === 0) failures = STREAM_FAILURES - 1;
        }
      } catch (error) {
        if (this.abort.signal.aborted) return;
        if (document.hidden) continue;
        if (error instanceof ApiProblem && [401, 403, 404].includes(error.status)) {
          this.emit({ error: messageOf(error) });
          if (isStatus(error, 401)) await this.queryClient.invalidateQueries({ queryKey: ["run"] });
          return;
        }
        failures += 1;
        if (failures < STREAM_FAILURES) this.emit({ connection: "loading" });
        await this.pause(RETRY_MS * Math.min(8, 2 ** failures));
      }
    }
  }

  private finish(): void {
    this.flush();
    this.emit({ connection: "ended", error: null });
    void this.queryClient.invalidateQueries({ queryKey: ["run", this.id] });
    void this.queryClient.invalidateQueries({ queryKey: ["runs"] });
  }

  /** Fetches the run; true when it has ended and all its events have arrived. */
  private async isComplete(): Promise<boolean> {
    const run = await this.queryClient.fetchQuery({ ...runQuery(this.id), staleTime: 0 });
    return isFinal(run.state) && this.state.lastSeq >= run.last_seq;
  }

  private async load(): Promise<void> {
    this.push({ type: "reset" });
    await this.fetchMetrics(0, true);
    await this.fetchLog(0);
    this.flush();
  }

  private async fetchMetrics(since: number, replace: boolean): Promise<void> {
    const snapshot = await unwrap(
      client.GET("/api/v1/runs/{run_id}/metrics", {
        params: { path: { run_id: this.id }, query: { since } },
        signal: this.abort.signal,
      }),
    );
    this.push({ type: "snapshot", snapshot, replace });
  }

  private async fetchLog(since: number): Promise<void> {
    let after = since;
    for (;;) {
      const page = await unwrap(
        client.GET("/api/v1/runs/{run_id}/log", {
          params: { path: { run_id: this.id }, query: { since: after, limit: LOG_PAGE } },
          signal: this.abort.signal,
        }),
      );
      this.push({ type: "log", lines: page.items });
      const last = page.items.at(-1)?.seq;
      if (page.items.length < LOG_PAGE || last === undefined) return;
      after = last;
    }
  }

  private async poll(): Promise<void> {
    const since = this.state.lastSeq;
    await this.fetchMetrics(since, false);
    await this.fetchLog(since);
    this.flush();
  }

  /** Reads the stream until it ends; throws if it breaks. */
  private async stream(onOpen: () => void): Promise<void> {
    const signal = AbortSignal.any([this.abort.signal, abortedWhenHidden()]);
    // Not EventSource: it cannot start at a given event, and does not retry after a 503.
    const response = await fetch(`/api/v1/runs/${this.id}/events`, {
      headers: { Accept: "text/event-stream", "Last-Event-ID": String(this.state.lastSeq) },
      credentials: "same-origin",
      signal,
    });
    if (!response.ok || !response.body) {
      throw new ApiProblem(response.status, "No live updates", "The event stream was rejected.");
    }
    onOpen();
    this.emit({ connection: "live", error: null });
    const events = response.body
      .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array<ArrayBuffer>>)
      .pipeThrough(new EventSourceParserStream())
      .getReader();
    for (;;) {
      const { done, value } = await events.read();
      if (done) break;
      await this.handle(value.event ?? "message", value.id, value.data);
      if (this.ended) {
        await events.cancel();
        return;
      }
    }
    // The server closed without an `end` event (restart or proxy timeout): reconnect.
    await this.pause(RETRY_MS);
  }

  private async handle(event: string, id: string | undefined, data: string): Promise<void> {
    const seq = Number(id ?? 0);
    if (event === "metrics") {
      const row = JSON.parse(data) as Omit<LiveAction & { type: "metrics" }, "type" | "seq">;
      this.push({ type: "metrics", seq, ...row });
    } else if (event === "log") {
      const line = JSON.parse(data) as Omit<LogLine, "seq">;
      this.push({ type: "log", lines: [{ ...line, seq }] });
    } else if (event === "run") {
      this.queryClient.setQueryData(runQuery(this.id).queryKey, JSON.parse(data) as RunDetail);
    } else if (event === "end") {
      this.ended = true;
    }
    if (longest(this.state) > RESAMPLE_POINTS) await this.fetchMetrics(0, true);
  }

  private async untilVisible(): Promise<void> {
    while (document.hidden && !this.abort.signal.aborted) {
      await new Promise((resolve) => {
        document.addEventListener("visibilitychange", resolve, { once: true });
        this.abort.signal.addEventListener("abort", resolve, { once: true });
      });
    }
  }

  private push(action: LiveAction): void {
    this.queue.push(action);
    // Rows arrive in bursts; render once per burst.
    this.timer ??= window.setTimeout(() => this.flush(), FLUSH_MS);
  }

  private flush(): void {
    window.clearTimeout(this.timer);
    this.timer = undefined;
    if (this.queue.length === 0) return;
    this.state = reduceAll(this.state, this.queue);
    this.queue = [];
    this.emit({ state: this.state });
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = window.setTimeout(resolve, ms);
      this.abort.signal.addEventListener("abort", () => {
        window.clearTimeout(timer);
        resolve();
      });
    });
  }
}

/** The metrics and the log of a run, updated live. */
export function useLiveRun(id: string): Live {
  const queryClient = useQueryClient();
  const [live, setLive] = useState<Live>({ state: EMPTY, connection: "loading", error: null });
  useEffect(() => {
    setLive({ state: EMPTY, connection: "loading", error: null });
    const feed = new Feed(id, queryClient, (update) =>
      setLive((current) => ({ ...current, ...update })),
    );
    void feed.run();
    return () => feed.stop();
  }, [id, queryClient]);
  return live;
}
