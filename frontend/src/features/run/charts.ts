/** The charts of a run, from its metrics and its result; pure. */

import type { ResultSchema, RunKind } from "@/api/types";
import type { Curve, LineChart, Reference } from "@/charts/figures";
import { figureOf } from "@/features/runs/figures";
import { numberOf } from "@/features/runs/labels";
import { type LiveState, latest, toArrays } from "./live";

/** Series with a predefined chart; every other series gets a chart under its own name. */
const PREDEFINED = new Set([
  "loss",
  "eval/loss",
  "eval/perplexity",
  "lr",
  "tokens_per_s",
  "grad_norm",
  "layers_active",
  "unigram_entropy",
]);

type Result = Record<string, unknown> | null;

/** Reference levels for the eval loss. */
function referencesOf(
  state: LiveState,
  result: Result,
  schema: ResultSchema | undefined,
): Reference[] {
  const levels = {
    unigram_entropy: numberOf(result, "unigram_entropy") ?? latest(state.series.unigram_entropy),
    start_eval_loss: numberOf(result, "start_eval_loss"),
  };
  return Object.entries(levels).flatMap(([name, value]) =>
    value === null ? [] : [{ label: figureOf(schema?.results, name).label, value }],
  );
}

/** The charts of a run that have data; labels and units are the server's. */
export function chartsFor(
  kind: RunKind,
  state: LiveState,
  result: Result,
  schema: ResultSchema | undefined,
): LineChart[] {
  const figure = (name: string) => figureOf(schema?.curves, name);

  const curves = (...names: string[]): Curve[] =>
    names.flatMap((name) => {
      const { steps, values } = toArrays(state.series[name]);
      const heldOut = name.startsWith("eval/");
      return steps.length > 0 ? [{ name, label: figure(name).label, steps, values, heldOut }] : [];
    });

  const single = (name: string): LineChart => {
    const { label, unit } = figure(name);
    return { id: name, title: label, yTitle: unit ?? label, curves: curves(name), allowLog: true };
  };

  const lossCharts = (): LineChart[] => {
    const references = referencesOf(state, result, schema);
    if (kind !== "distill") {
      return [
        {
          id: "loss",
          title: "Loss",
          yTitle: figure("eval/loss").unit ?? "Loss",
          curves: curves("loss", "eval/loss"),
          references,
          allowLog: true,
        },
      ];
    }
    const terms = Object.keys(state.series).filter((name) => name.startsWith("loss/"));
    // The train loss is a weighted sum and cannot share an axis with the eval loss.
    return [
      { ...single("loss"), yTitle: "weighted sum" },
      { ...single("eval/loss"), id: "eval", references },
      {
        id: "terms",
        title: "Loss terms",
        yTitle: "unweighted",
        curves: curves(...terms.sort()),
        allowLog: true,
      },
    ];
  };

  const others = Object.keys(state.series)
    .filter((name) => !PREDEFINED.has(name) && !name.startsWith("loss/"))
    .sort();
  return [
    ...lossCharts(),
    { ...single("lr"), yFormat: ".1e" },
    single("tokens_per_s"),
    single("grad_norm"),
    { ...single("layers_active"), yInteger: true },
    ...others.map(single),
  ].filter((chart) => chart.curves.length > 0);
}
