import { describe, expect, it } from "vitest";
import type { Figure, ResultSchema } from "@/api/types";
import { figureOf, figureText, keyResult, resultRows } from "./figures";

const figure = (name: string, format: Figure["format"], more: Partial<Figure> = {}): Figure => ({
  name,
  label: name.toUpperCase(),
  description: "",
  format,
  digits: 4,
  kinds: [],
  ...more,
});

const SCHEMA: ResultSchema = {
  results: [
    figure("eval_loss", "decimal", { label: "Eval loss", unit: "nats" }),
    figure("elapsed_s", "duration", { unit: "s" }),
    figure("layers", "integer"),
  ],
  curves: [],
  key_results: ["eval_loss", "layers"],
};

describe("the figures of a result", () => {
  it("are written as in tests/kdcore/test_figures.py", () => {
    const text = (format: Figure["format"], value: unknown, digits = 4) =>
      figureText(figure("x", format, { digits }), value);
    expect(text("decimal", 6.26431)).toBe("6.2643");
    expect(text("decimal", 0.0000123)).toBe("1.23e-5");
    expect(text("decimal", 525.4871, 2)).toBe("525.49");
    expect(text("integer", 12034)).toBe("12\u202f034");
    expect(text("short", 66362880)).toBe("66.4M");
    expect(text("short", 812)).toBe("812");
    expect(text("short", 999)).toBe("999");
    expect(text("short", 1000)).toBe("1.0k");
    expect(text("short", 999949)).toBe("999.9k");
    expect(text("short", 999950)).toBe("1.0M");
    expect(text("short", -999950)).toBe("-1.0M");
    expect(text("short", 999950000)).toBe("1.0G");
    expect(text("short", 999.94)).toBe("999.9");
    expect(text("short", 999.96)).toBe("1.0k");
    expect(text("duration", 185.2)).toBe("3 min 05 s");
    expect(text("percent", 0.2)).toBe("20.00 %");
    expect(text("percent", 0.00001)).toBe("< 0.01 %");
    expect(text("percent", 0)).toBe("0 %");
    expect(text("plain", 0.1)).toBe("0.1");
    expect(text("plain", false)).toBe("no");
    expect(text("plain", [0, 2])).toBe("0, 2");
    expect(text("plain", ["one", "two"])).toBe("one; two");
    expect(text("plain", "bf16")).toBe("bf16");
  });
  it("are in the server's order, with unknown figures last under their names", () => {
    const result = { glue: 0.5, elapsed_s: 42, eval_loss: 6, tokens_per_s: null, report: {} };
    expect(resultRows(result, SCHEMA).map((row) => [row.label, row.text, row.unit])).toEqual([
      ["Eval loss", "6", "nats"],
      ["ELAPSED_S", "42 s", ""],
      ["glue", "0.5000", ""],
    ]);
    expect(resultRows(null, SCHEMA)).toEqual([]);
    expect(resultRows({ eval_loss: 6.5 }, undefined)[0]?.label).toBe("eval_loss");
  });
  it("have one main result", () => {
    expect(keyResult({ layers: 2, eval_loss: 6.5 }, SCHEMA)?.text).toBe("6.5000");
    expect(keyResult({ layers: 2, eval_loss: null }, SCHEMA)?.label).toBe("LAYERS");
    expect(keyResult({}, SCHEMA)).toBeNull();
  });
  it("fall back to the name of a series", () => {
    expect(figureOf(SCHEMA.results, "eval_loss").label).toBe("Eval loss");
    expect(figureOf(undefined, "odd/name").label).toBe("odd/name");
  });
});
