/** Exponential smoothing of a curve; pure. */

/**
 * The debiased exponential moving average, as in TensorBoard.
 *
 * `weight` in [0, 1) is the weight of the past. Gaps stay gaps and do not affect the average.
 */
export function smooth(values: readonly (number | null)[], weight: number): (number | null)[] {
  if (weight <= 0) return [...values];
  let average = 0;
  let seen = 0;
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null;
    average = average * weight + (1 - weight) * value;
    seen += 1;
    return average / (1 - weight ** seen);
  });
}
