import { describe, expect, it } from "vitest";
import type { ResultSchema, RunSummary } from "@/api/types";
import { chartsFor } from "@/features/run/charts";
import { EMPTY, reduceAll } from "@/features/run/live";
import { safeNext, tokenFromFragment } from "@/features/session/signInLink";
import { groupRuns, percent, progressText } from "./labels";

const run = (id: string, kind: string, pipeline_id: string | null) =>
  ({ id, kind, pipeline_id }) as RunSummary;

describe("labels of runs", () => {
  it("groups a pipeline's runs in the order of its stages", () => {
    const groups = groupRuns([
      run("d", "distill", "p"),
      run("x", "teacher", null),
      run("b", "prune", "p"),
      run("a", "teacher", "p"),
    ]);
    expect(groups.map((group) => group.runs.map((one) => one.id))).toEqual([
      ["a", "b", "d"],
      ["x"],
    ]);
  });
  it("shows the progress with and without a total", () => {
    const progress = { phase: "training", done: 30, total: 120, unit: "steps", eta_s: 9 };
    expect(percent(progress)).toBe(25);
    expect(progressText(progress)).toBe("training · 30 / 120 steps");
    expect(percent({ ...progress, total: null })).toBeNull();
    expect(progressText({ ...progress, total: null, unit: null })).toBe("training · 30");
  });
});

describe("sign-in links", () => {
  it("parses the token", () => {
    expect(tokenFromFragment("#token=hl_login_x-y_z")).toBe("hl_login_x-y_z");
    expect(tokenFromFragment("")).toBeNull();
  });
  it("never redirects to another site", () => {
    expect(safeNext("/runs/abc?x=1")).toBe("/runs/abc?x=1");
    expect(safeNext("//evil.example")).toBe("/");
    expect(safeNext("https://evil.example")).toBe("/");
    expect(safeNext("/\\evil.example")).toBe("/");
    expect(safeNext("/login?next=/")).toBe("/");
  });
});

describe("chartsFor", () => {
  const values = { loss: 20, "loss/ce": 3, "eval/loss": 6, lr: 1e-4, "odd/name": 1 };
  const state = reduceAll(EMPTY, [{ type: "metrics", seq: 1, step: 10, attempt: 1, values }]);
  const schema = {
    results: [{ name: "unigram_entropy", label: "Unigram entropy" }],
    curves: [{ name: "loss", label: "Train loss" }],
  } as unknown as ResultSchema;
  it("puts the weighted sum and the MLM loss in separate charts", () => {
    const charts = chartsFor(
      "distill",
      state,
      { unigram_entropy: 6.5, start_eval_loss: 7 },
      undefined,
    );
    expect(charts.map((chart) => chart.id)).toEqual(["loss", "eval", "terms", "lr", "odd/name"]);
    expect(charts[1]?.references).toHaveLength(2);
  });
  it("shows a teacher's held-out loss in the chart of its loss", () => {
    const [loss] = chartsFor("teacher", state, { unigram_entropy: 6.5 }, schema);
    expect(loss?.curves.map((curve) => curve.name)).toEqual(["loss", "eval/loss"]);
    expect(loss?.curves.map((curve) => curve.label)).toEqual(["Train loss", "eval/loss"]);
    expect(loss?.references).toEqual([{ label: "Unigram entropy", value: 6.5 }]);
  });
});
