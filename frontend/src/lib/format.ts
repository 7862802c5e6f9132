/** Formats numbers, times and sizes for display; pure. */

const MINUTE_S = 60;
const HOUR_S = 3600;
const DAY_S = 86_400;

/** A duration in two units at most: `42 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`. */
export function formatDuration(seconds: number | null | undefined): string {
  if (seconds == null || !Number.isFinite(seconds) || seconds < 0) return "–";
  if (seconds < 1) return "< 1 s";
  const whole = Math.round(seconds);
  if (whole < MINUTE_S) return `${whole} s`;
  if (whole < HOUR_S) {
    return `${Math.floor(whole / MINUTE_S)} min ${String(whole % MINUTE_S).padStart(2, "0")} s`;
  }
  if (whole < DAY_S) {
    return `${Math.floor(whole / HOUR_S)} h ${Math.floor((whole % HOUR_S) / MINUTE_S)} min`;
  }
  return `${Math.floor(whole / DAY_S)} d ${Math.floor((whole % DAY_S) / HOUR_S)} h`;
}

/** The time left, rounded so that it does not flicker; empty while unknown. */
export function formatEta(seconds: number | null | undefined): string {
  if (seconds == null || !Number.isFinite(seconds) || seconds < 0) return "";
  if (seconds < 5) return "a few seconds left";
  if (seconds < MINUTE_S) return `about ${Math.ceil(seconds / 5) * 5} s left`;
  if (seconds < HOUR_S) return `about ${Math.round(seconds / MINUTE_S)} min left`;
  return `about ${formatDuration(Math.round(seconds / MINUTE_S) * MINUTE_S)} left`;
}

const SIZE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** A size in binary units with three digits: `1.50 MiB`. */
export function formatBytes(bytes: number | null | undefined): string {
  if (bytes == null || !Number.isFinite(bytes)) return "–";
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < SIZE_UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  if (unit === 0) return `${value} B`;
  const digits = value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${SIZE_UNITS[unit]}`;
}

/** A message with its first letter capitalised. */
export function capitalise(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** An integer with thin spaces between groups of digits: `12 345`. */
export function formatCount(value: number | null | undefined): string {
  if (value == null || !Number.isFinite(value)) return "–";
  return Math.round(value).toLocaleString("en-US").replaceAll(",", "\u202f");
}

/** A measured number with `digits` decimals, or an exponent where those would show only zeros. */
export function formatDecimal(value: number | null | undefined, digits: number): string {
  if (value == null || !Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 10 ** (1 - digits)) return value.toExponential(2);
  return value
    .toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits })
    .replaceAll(",", "\u202f");
}

/** A loss, rate or other measured number: four decimals, or an exponent for small values. */
export function formatNumber(value: number | null | undefined): string {
  if (value == null || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return formatCount(value);
  const size = Math.abs(value);
  if (size < 1e-3) return value.toExponential(2);
  if (size >= 1e5) return formatCount(value);
  if (size >= 100) return value.toFixed(1);
  return value.toFixed(4);
}

/** A share as a percentage: `0 %`, `< 0.01 %` (small, but not zero), `12.34 %`. */
export function formatShare(share: number | null | undefined): string {
  if (share == null || !Number.isFinite(share)) return "–";
  if (share > 0 && share < 0.0001) return "< 0.01 %";
  return `${share === 0 ? "0" : (100 * share).toFixed(2)} %`;
}

/** A count shortened for axes and tables: `1.2k`, `66.4M`. */
export function formatShort(value: number | null | undefined): string {
  if (value == null || !Number.isFinite(value)) return "–";
  for (const [limit, letter] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const) {
    // Rounded first: 999 950 is 1.0M, not 1000.0k.
    if (Number((Math.abs(value) / (limit / 1000)).toFixed(1)) >= 1000) {
      return `${(value / limit).toFixed(1)}${letter}`;
    }
  }
  return formatNumber(value);
}

/** A timestamp in the browser's time zone: `22 Nov, 20:41`. */
export function formatTime(iso: string | null | undefined): string {
  if (!iso) return "–";
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return "–";
  return date.toLocaleString("en-GB", {
    day: "numeric",
    month: "short",
    hour: "2-digit",
    minute: "2-digit",
  });
}

/** How long ago: `just now`, `5 min ago`, `3 h ago`, then the date. */
export function formatAgo(iso: string | null | undefined, now: number = Date.now()): string {
  if (!iso) return "–";
  const seconds = (now - new Date(iso).getTime()) / 1000;
  if (Number.isNaN(seconds)) return "–";
  if (seconds < 45) return "just now";
  if (seconds < HOUR_S) return `${Math.max(1, Math.round(seconds / MINUTE_S))} min ago`;
  if (seconds < DAY_S) return `${Math.round(seconds / HOUR_S)} h ago`;
  return formatTime(iso);
}

/** Seconds between two timestamps; until now if the second is missing. */
export function elapsedSeconds(
  from: string | null | undefined,
  to: string | null | undefined,
  now: number = Date.now(),
): number | null {
  if (!from) return null;
  const end = to ? new Date(to).getTime() : now;
  const seconds = (end - new Date(from).getTime()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, seconds) : null;
}
