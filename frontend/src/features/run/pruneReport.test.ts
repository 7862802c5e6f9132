import { describe, expect, it } from "vitest";
import { freshTensors } from "./pruneReport";

describe("randomly initialised tensors", () => {
  it("are those of a teacher's new head", () => {
    expect(freshTensors({ fresh_tensors: ["cls.predictions.bias"] })).toEqual([
      "cls.predictions.bias",
    ]);
  });

  it("are those that a prune did not copy", () => {
    const report = { copied: [], fresh: ["vocab_transform.weight"], dropped: ["a"] };
    expect(freshTensors({ report })).toEqual(["vocab_transform.weight"]);
  });

  it("are none in other results", () => {
    expect(freshTensors({ eval_loss: 3, fresh_tensors: null })).toEqual([]);
    expect(freshTensors({ report: "x" })).toEqual([]);
  });
});
