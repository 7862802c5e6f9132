/** A run's metrics and log as they arrive; a pure reducer, so that events may be repeated. */

interface Point {
  value: number | null;
  attempt: number;
}

export interface LogLine {
  seq: number;
  time: string;
  level: string;
  message: string;
  attempt: number;
}

/** One curve: points by step. Treated as immutable. */
export type Series = ReadonlyMap<number, Point>;

export interface LiveState {
  series: Readonly<Record<string, Series>>;
  log: readonly LogLine[];
  /** The last sequence number received, from which a stream resumes. */
  lastSeq: number;
  /** Whether earlier log lines were dropped to limit memory. */
  logTruncated: boolean;
}

interface MetricsSnapshot {
  series: { name: string; steps: number[]; values: (number | null)[] }[];
  last_seq: number;
}

export type LiveAction =
  | { type: "reset" }
  /** Stored curves, possibly downsampled; `replace` drops all points received before. */
  | { type: "snapshot"; snapshot: MetricsSnapshot; replace: boolean }
  | {
      type: "metrics";
      seq: number;
      step: number;
      attempt: number;
      values: Record<string, number | null>;
    }
  | { type: "log"; lines: LogLine[] };

/** The number of log lines kept in the browser; the oldest are dropped first. */
export const MAX_LOG_LINES = 5000;

export const EMPTY: LiveState = { series: {}, log: [], lastSeq: 0, logTruncated: false };

/** The state after several actions; maps are copied once, not once per action. */
export function reduceAll(state: LiveState, actions: readonly LiveAction[]): LiveState {
  let next = state;
  const copied = new Map<string, Map<number, Point>>();
  const writable = (name: string): Map<number, Point> => {
    let points = copied.get(name);
    if (!points) {
      points = new Map(next.series[name] ?? []);
      copied.set(name, points);
    }
    return points;
  };
  for (const action of actions) {
    switch (action.type) {
      case "reset":
        copied.clear();
        next = EMPTY;
        break;
      case "snapshot":
        if (action.replace) {
          copied.clear();
          next = { ...next, series: {} };
        }
        for (const { name, steps, values } of action.snapshot.series) {
          const points = writable(name);
          // Stored rows are already those of the latest attempt of their step.
          steps.forEach((step, index) => {
            points.set(step, { value: values[index] ?? null, attempt: 0 });
          });
        }
        next = { ...next, lastSeq: Math.max(next.lastSeq, action.snapshot.last_seq) };
        break;
      case "metrics":
        for (const [name, value] of Object.entries(action.values)) {
          const points = writable(name);
          const existing = points.get(action.step);
          // A resumed run repeats steps; the later attempt wins.
          if (!existing || action.attempt >= existing.attempt) {
            points.set(action.step, { value, attempt: action.attempt });
          }
        }
        next = { ...next, lastSeq: Math.max(next.lastSeq, action.seq) };
        break;
      case "log":
        next = addLines(next, action.lines);
        break;
    }
  }
  if (copied.size === 0) return next;
  return { ...next, series: { ...next.series, ...Object.fromEntries(copied) } };
}

function addLines(state: LiveState, lines: LogLine[]): LiveState {
  const newest = state.log.at(-1)?.seq ?? -1;
  // The stream may repeat lines of the first request.
  const added = lines.filter((line) => line.seq > newest);
  if (added.length === 0) return state;
  const log = [...state.log, ...added];
  const truncated = log.length > MAX_LOG_LINES;
  return {
    ...state,
    log: truncated ? log.slice(-MAX_LOG_LINES) : log,
    logTruncated: state.logTruncated || truncated,
    lastSeq: Math.max(state.lastSeq, added.at(-1)?.seq ?? 0),
  };
}

/** A curve as two arrays in the order of its steps. */
export function toArrays(series: Series | undefined): {
  steps: number[];
  values: (number | null)[];
} {
  const entries = [...(series ?? [])].sort(([a], [b]) => a - b);
  return {
    steps: entries.map(([step]) => step),
    values: entries.map(([, point]) => point.value),
  };
}

/** The last value of a curve that is a number. */
export function latest(series: Series | undefined): number | null {
  const { values } = toArrays(series);
  return values.findLast((value) => value !== null) ?? null;
}

/** The number of points of the longest curve. */
export function longest(state: LiveState): number {
  return Math.max(0, ...Object.values(state.series).map((points) => points.size));
}
