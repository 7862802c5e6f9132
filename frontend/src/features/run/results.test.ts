import { describe, expect, it } from "vitest";
import { figuresOf } from "./Results";

describe("figuresOf", () => {
  it("includes the shares of unknown tokens and the skipped lines", () => {
    const figures = figuresOf({
      role: "student",
      eval_loss: 6.5,
      unknown_token_share: 0.2,
      removed_character_share: 0.00001,
      eval_unknown_token_share: 0,
      lines_too_short: 1234,
    });
    expect(figures.map(({ key, text }) => [key, text])).toEqual([
      ["eval_loss", "6.5000"],
      ["unknown_token_share", "20.00 %"],
      ["removed_character_share", "< 0.01 %"],
      ["eval_unknown_token_share", "0 %"],
      ["lines_too_short", "1\u202f234"],
    ]);
  });
});
