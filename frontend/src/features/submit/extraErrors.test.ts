import { expect, test } from "vitest";
import { locateProblems, toErrorTree } from "./extraErrors";

test("an error across fields is shown at the field that the server points to", () => {
  const teacher = { model: { source: "scratch", hidden_size: 30, heads: 4 }, seq_len: 512 };
  const problems = [
    { pointer: "/config/teacher/model/heads", detail: "4 heads do not divide 30" },
    { pointer: "/config/teacher/evaluation/seq_len", detail: "too long" },
  ];
  expect(toErrorTree(locateProblems(problems, { teacher }))).toEqual({
    teacher: {
      model: { heads: { __errors: ["4 heads do not divide 30"] } },
      evaluation: { seq_len: { __errors: ["too long"] } },
    },
  });
});

test("an error can belong to a union itself, whether it is chosen or missing", () => {
  const problems = [{ pointer: "/config/tokenizer", detail: "choose 'model'" }];
  const tree = { tokenizer: { __errors: ["choose 'model'"] } };
  expect(toErrorTree(locateProblems(problems, { tokenizer: { source: "model" } }))).toEqual(tree);
  expect(toErrorTree(locateProblems(problems, {}))).toEqual(tree);
});
