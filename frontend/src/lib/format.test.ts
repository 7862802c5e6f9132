import { describe, expect, it } from "vitest";
import {
  elapsedSeconds,
  formatAgo,
  formatBytes,
  formatDuration,
  formatEta,
  formatNumber,
  formatShare,
} from "./format";

describe("formatDuration", () => {
  it.each([
    [0.2, "< 1 s"],
    [42, "42 s"],
    [59.7, "1 min 00 s"],
    [185, "3 min 05 s"],
    [7860, "2 h 11 min"],
    [273_600, "3 d 4 h"],
    [null, "–"],
    [Number.NaN, "–"],
  ])("%s", (seconds, text) => expect(formatDuration(seconds)).toBe(text));
});

describe("formatEta", () => {
  it.each([
    [2, "a few seconds left"],
    [31, "about 35 s left"],
    [190, "about 3 min left"],
    [7860, "about 2 h 11 min left"],
    [null, ""],
    [-1, ""],
  ])("%s", (seconds, text) => expect(formatEta(seconds)).toBe(text));
});

describe("other formats", () => {
  it("shows sizes in binary units", () => {
    expect(formatBytes(812)).toBe("812 B");
    expect(formatBytes(264_301_232)).toBe("252 MiB");
  });
  it("keeps small numbers readable", () => {
    expect(formatNumber(5.93124)).toBe("5.9312");
    expect(formatNumber(5e-5)).toBe("5.00e-5");
    expect(formatNumber(null)).toBe("–");
  });
  it("says how long ago", () => {
    const now = Date.parse("2026-01-01T12:00:00Z");
    expect(formatAgo("2026-01-01T11:59:50Z", now)).toBe("just now");
    expect(formatAgo("2026-01-01T11:50:00Z", now)).toBe("10 min ago");
  });
  it("measures until now while a run has not ended", () => {
    const now = Date.parse("2026-01-01T12:00:00Z");
    expect(elapsedSeconds("2026-01-01T11:59:00Z", null, now)).toBe(60);
    expect(elapsedSeconds(null, null, now)).toBeNull();
  });
});

describe("formatShare", () => {
  it.each([
    [0, "0 %"],
    [0.00001, "< 0.01 %"],
    [0.0123, "1.23 %"],
    [1, "100.00 %"],
    [null, "–"],
  ])("%s", (share, text) => expect(formatShare(share)).toBe(text));
});
