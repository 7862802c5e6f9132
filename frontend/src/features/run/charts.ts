/** The charts of a run, from its metrics and its result; pure. */

import type { RunKind } from "@/api/types";
import type { Curve, LineChart, Reference } from "@/charts/figures";
import { numberOf } from "@/features/runs/labels";
import { type LiveState, latest, toArrays } from "./live";

const TERM_LABELS: Record<string, string> = {
  "loss/ce": "soft targets (CE)",
  "loss/mlm": "MLM",
  "loss/cos": "cosine",
  "loss/mse": "logits MSE",
};

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

function curve(state: LiveState, name: string, label: string, heldOut = false): Curve | null {
  const { steps, values } = toArrays(state.series[name]);
  return steps.length > 0 ? { name, label, steps, values, heldOut } : null;
}

function present(curves: (Curve | null)[]): Curve[] {
  return curves.filter((one): one is Curve => one !== null);
}

type Result = Record<string, unknown> | null;

/** Reference levels for the held-out MLM loss. */
function references(state: LiveState, result: Result): Reference[] {
  const found: Reference[] = [];
  const entropy = numberOf(result, "unigram_entropy") ?? latest(state.series.unigram_entropy);
  if (entropy !== null) found.push({ label: "unigram entropy", value: entropy });
  const start = numberOf(result, "start_eval_loss");
  if (start !== null) found.push({ label: "pruned start", value: start });
  return found;
}

function lossCharts(kind: RunKind, state: LiveState, result: Result): LineChart[] {
  const train = curve(state, "loss", "training");
  const heldOut = curve(state, "eval/loss", "held out", true);
  const levels = references(state, result);
  if (kind !== "distill") {
    return [
      {
        id: "loss",
        title: "Loss",
        yTitle: "MLM loss (nats)",
        curves: present([train, heldOut]),
        references: levels,
        allowLog: true,
      },
    ];
  }
  // The distillation loss is a weighted sum and cannot share an axis with the MLM loss.
  return [
    {
      id: "loss",
      title: "Distillation loss",
      yTitle: "weighted sum",
      curves: present([train]),
      allowLog: true,
    },
    {
      id: "eval",
      title: "Held-out MLM loss",
      yTitle: "MLM loss (nats)",
      curves: present([heldOut]),
      references: heldOut ? levels : [],
      allowLog: true,
    },
    {
      id: "terms",
      title: "Loss terms",
      yTitle: "unweighted",
      curves: present(
        Object.keys(state.series)
          .filter((name) => name.startsWith("loss/"))
          .sort()
          .map((name) => curve(state, name, TERM_LABELS[name] ?? name.slice(5))),
      ),
      allowLog: true,
    },
  ];
}

function single(state: LiveState, name: string, title: string, yTitle: string): LineChart {
  return { id: name, title, yTitle, curves: present([curve(state, name, title)]), allowLog: true };
}

/** The charts of a run that have data. */
export function chartsFor(kind: RunKind, state: LiveState, result: Result): LineChart[] {
  const others = Object.keys(state.series)
    .filter((name) => !PREDEFINED.has(name) && !name.startsWith("loss/"))
    .sort()
    .map((name) => single(state, name, name, name));
  return [
    ...lossCharts(kind, state, result),
    { ...single(state, "lr", "Learning rate", "learning rate"), yFormat: ".1e" },
    single(state, "tokens_per_s", "Throughput", "tokens per second"),
    single(state, "grad_norm", "Gradient norm", "before clipping"),
    { ...single(state, "layers_active", "Active layers", "layers in the update"), yInteger: true },
    ...others,
  ].filter((chart) => chart.curves.length > 0);
}
