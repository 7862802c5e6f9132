import { describe, expect, it } from "vitest";
import { type LineChart, lineFigure } from "./figures";
import { smooth } from "./smoothing";
import { chartTheme } from "./theme";

const chart: LineChart = {
  id: "loss",
  title: "Loss",
  yTitle: "nats",
  allowLog: true,
  curves: [
    { name: "loss", label: "training", steps: [1, 2, 3], values: [9, 30, 8] },
    { name: "eval/loss", label: "held out", steps: [3], values: [8.5], heldOut: true },
  ],
  references: [{ label: "unigram entropy", value: 6.5 }],
};
const theme = chartTheme("light");

describe("lineFigure", () => {
  it("draws the curves, the held-out points and the reference level", () => {
    const { data } = lineFigure(chart, { smoothing: 0, log: false }, theme);
    expect(data.map((trace) => trace.name)).toEqual(["training", "held out", "unigram entropy"]);
    expect(data[1]?.mode).toBe("lines+markers");
    expect(data[2]).toMatchObject({ x: [0, 3], y: [6.5, 6.5] });
  });
  it("keeps spikes behind a smoothed curve", () => {
    const { data } = lineFigure(chart, { smoothing: 0.9, log: false }, theme);
    expect(data).toHaveLength(4);
    expect(data[0]).toMatchObject({ y: [9, 30, 8], showlegend: false });
    expect(Math.max(...((data[1]?.y ?? []) as number[]))).toBeLessThan(30);
  });
  it("switches to a log axis and depends on its arguments only", () => {
    const view = { smoothing: 0.5, log: true };
    const figure = lineFigure(chart, view, theme);
    expect(figure.layout.yaxis).toMatchObject({ type: "log" });
    expect(lineFigure(chart, view, theme)).toEqual(figure);
  });
  it("puts ticks at whole steps only, even when there are few", () => {
    const view = { smoothing: 0, log: false };
    expect(lineFigure(chart, view, theme).layout.xaxis).toMatchObject({ dtick: 1 });
    const steps = [100, 200, 300];
    const long = {
      ...chart,
      curves: [{ name: "loss", label: "training", steps, values: [3, 2, 1] }],
    };
    expect(lineFigure(long, view, theme).layout.xaxis).toMatchObject({ dtick: undefined });
  });
});

describe("smooth", () => {
  it("is exact for constants, from the first point on", () => {
    expect(smooth([4, 4, 4], 0.9).map((value) => Number(value?.toFixed(9)))).toEqual([4, 4, 4]);
  });
  it("leaves gaps as they are", () => expect(smooth([1, null, 1], 0.5)).toEqual([1, null, 1]));
  it("returns the values unchanged at weight 0", () => expect(smooth([1, 5], 0)).toEqual([1, 5]));
});
