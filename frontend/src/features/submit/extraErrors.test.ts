import { expect, test } from "vitest";
import { placeProblems, toErrorTree } from "./extraErrors";

test("a rule between fields is shown at the field that the server names", () => {
  const teacher = { model: { source: "scratch", hidden_size: 30, heads: 4 }, seq_len: 512 };
  const problems = [
    { pointer: "/config/teacher/model/heads", detail: "4 heads do not divide 30" },
    { pointer: "/config/teacher/evaluation/seq_len", detail: "too long" },
  ];
  expect(toErrorTree(placeProblems(problems, { teacher }))).toEqual({
    teacher: {
      model: { heads: { __errors: ["4 heads do not divide 30"] } },
      evaluation: { seq_len: { __errors: ["too long"] } },
    },
  });
});

test("a union as a whole, chosen or left out, can be wrong", () => {
  const problems = [{ pointer: "/config/tokenizer", detail: "choose 'model'" }];
  const tree = { tokenizer: { __errors: ["choose 'model'"] } };
  expect(toErrorTree(placeProblems(problems, { tokenizer: { source: "model" } }))).toEqual(tree);
  expect(toErrorTree(placeProblems(problems, {}))).toEqual(tree);
});
