import { expect, it } from "vitest";
import type { Config } from "@/api/types";
import { flatten } from "./flatten";

it("marks the ids of runs and datasets", () => {
  const config = {
    kind: "distill",
    teacher: { source: "run", run_id: "r1" },
    corpus: { source: "upload", dataset_id: "d1", validation_dataset_id: null, column: "text" },
  } as unknown as Config;
  const rows = Object.fromEntries(flatten(config).map((row) => [row.path, row]));
  expect(rows["teacher.run_id"]).toMatchObject({ value: "r1", refersTo: "run" });
  expect(rows["corpus.dataset_id"]).toMatchObject({ value: "d1", refersTo: "dataset" });
  expect(rows["corpus.validation_dataset_id"]).toMatchObject({
    value: "empty",
    refersTo: undefined,
  });
  expect(rows["corpus.column"]?.refersTo).toBeUndefined();
  expect(rows.kind).toBeUndefined();
});
