import { describe, expect, it } from "vitest";
import { locate, parsePointer, toPointer, valueAt } from "./pointer";

describe("pointers", () => {
  it("decodes and encodes", () => {
    expect(parsePointer("/a~1b/c~0d/0")).toEqual(["a/b", "c~d", "0"]);
    expect(toPointer(["a/b", "c~d", 0])).toBe("/a~1b/c~0d/0");
    expect(parsePointer("")).toEqual([]);
  });
  it("drops the leading config of the request body", () => {
    expect(locate("/config/model/heads", { model: { heads: 3 } })).toEqual(["model", "heads"]);
    expect(locate("/config", {})).toEqual([]);
  });
  it("drops the tag of a union", () => {
    const data = { model: { source: "scratch", heads: 3 }, kind: "teacher" };
    expect(locate("/config/teacher/model/scratch/heads", data)).toEqual(["model", "heads"]);
  });
  it("keeps a field with the same name as a tag's value, and handles missing fields", () => {
    const data = { teacher: { kind: "teacher", model: { source: "run" } } };
    expect(locate("/config/teacher/model/run_id", data)).toEqual(["teacher", "model", "run_id"]);
  });
  it("resolves list indices", () => {
    const data = { layers: { strategy: "explicit", layers: [0, 7] } };
    expect(locate("/config/layers/layers/1", data)).toEqual(["layers", "layers", 1]);
    expect(valueAt(data, ["layers", "layers", 1])).toBe(7);
    expect(valueAt(data, ["nothing", "here"])).toBeUndefined();
  });
});
