import { describe, expect, it } from "vitest";
import { EMPTY, type LiveAction, latest, MAX_LOG_LINES, reduceAll, toArrays } from "./live";

const row = (seq: number, step: number, attempt: number, loss: number | null): LiveAction => ({
  type: "metrics",
  seq,
  step,
  attempt,
  values: { loss },
});
const line = (seq: number, message = `line ${seq}`) => ({
  seq,
  time: "2026-01-01T00:00:00Z",
  level: "info",
  message,
  attempt: 1,
});

describe("reduceAll", () => {
  it("orders points by step and keeps the last sequence number", () => {
    const state = reduceAll(EMPTY, [row(2, 20, 1, 5), row(1, 10, 1, 6)]);
    expect(toArrays(state.series.loss)).toEqual({ steps: [10, 20], values: [6, 5] });
    expect(state.lastSeq).toBe(2);
  });

  it("keeps the later attempt, whatever the order of the rows", () => {
    const late = reduceAll(EMPTY, [row(1, 10, 1, 6), row(9, 10, 2, 4)]);
    const early = reduceAll(EMPTY, [row(9, 10, 2, 4), row(1, 10, 1, 6)]);
    expect(toArrays(late.series.loss).values).toEqual([4]);
    expect(toArrays(early.series.loss).values).toEqual([4]);
  });

  it("ignores a repeated row", () => {
    const once = reduceAll(EMPTY, [row(1, 10, 1, 6)]);
    const twice = reduceAll(once, [row(1, 10, 1, 6)]);
    expect(toArrays(twice.series.loss)).toEqual(toArrays(once.series.loss));
  });

  it("adds stream rows to a snapshot, and replaces all points on request", () => {
    const snapshot = { series: [{ name: "loss", steps: [1, 2], values: [9, 8] }], last_seq: 5 };
    const first = reduceAll(EMPTY, [
      { type: "snapshot", snapshot, replace: true },
      row(6, 3, 1, 7),
    ]);
    expect(toArrays(first.series.loss).steps).toEqual([1, 2, 3]);
    const sampled = { series: [{ name: "loss", steps: [1], values: [9] }], last_seq: 6 };
    const second = reduceAll(first, [{ type: "snapshot", snapshot: sampled, replace: true }]);
    expect(toArrays(second.series.loss).steps).toEqual([1]);
  });

  it("does not change the state that it was given", () => {
    const before = reduceAll(EMPTY, [row(1, 10, 1, 6)]);
    reduceAll(before, [row(2, 20, 1, 5)]);
    expect(toArrays(before.series.loss).steps).toEqual([10]);
  });

  it("keeps a null value as a gap", () => {
    const state = reduceAll(EMPTY, [row(1, 10, 1, 6), row(2, 20, 1, null)]);
    expect(toArrays(state.series.loss).values).toEqual([6, null]);
    expect(latest(state.series.loss)).toBe(6);
  });

  it("does not repeat log lines and limits their number", () => {
    const state = reduceAll(EMPTY, [
      { type: "log", lines: [line(1), line(2)] },
      { type: "log", lines: [line(2), line(3)] },
    ]);
    expect(state.log.map((one) => one.seq)).toEqual([1, 2, 3]);
    const many = Array.from({ length: MAX_LOG_LINES + 5 }, (_, index) => line(index + 10));
    const full = reduceAll(state, [{ type: "log", lines: many }]);
    expect(full.log).toHaveLength(MAX_LOG_LINES);
    expect(full.logTruncated).toBe(true);
  });
});
