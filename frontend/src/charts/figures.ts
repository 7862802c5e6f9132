/** Builds Plotly figures from curves; pure. */
import type { Data, Layout } from "./plotly";
import { smooth } from "./smoothing";
import type { ChartTheme } from "./theme";

export interface Curve {
  name: string;
  label: string;
  steps: number[];
  values: (number | null)[];
  /** Held-out values: few and exact, so drawn with markers and never smoothed. */
  heldOut?: boolean;
}

export interface Reference {
  label: string;
  value: number;
}

export interface LineChart {
  id: string;
  title: string;
  /** What the vertical axis measures, with its unit. */
  yTitle: string;
  curves: Curve[];
  references?: Reference[];
  /** Whether the values can be shown on a log axis. */
  allowLog?: boolean;
  /** The d3 format of the axis ticks; `~g` if not given. */
  yFormat?: string;
  /** Whether the values are integers. */
  yInteger?: boolean;
}

export interface ViewOptions {
  smoothing: number;
  log: boolean;
}

export interface Figure {
  data: Data[];
  layout: Layout;
}

const RAW_OPACITY = 0.28;
const FEW_STEPS = 8;

function curveTraces(curve: Curve, color: string, view: ViewOptions): Data[] {
  const base = {
    type: "scatter",
    x: curve.steps,
    connectgaps: false,
    hovertemplate: `%{y:.5~g}<extra>${curve.label}</extra>`,
  };
  if (curve.heldOut) {
    return [
      {
        ...base,
        y: curve.values,
        name: curve.label,
        mode: "lines+markers",
        line: { color, width: 2, dash: "dot" },
        marker: { color, size: 7 },
      },
    ];
  }
  const onePoint = curve.steps.length < 2;
  const line = {
    ...base,
    y: smooth(curve.values, view.smoothing),
    name: curve.label,
    mode: onePoint ? "markers" : "lines",
    line: { color, width: 2 },
    marker: { color, size: 6 },
  };
  if (view.smoothing <= 0 || onePoint) return [line];
  // The raw curve stays visible behind the smoothed one: smoothing must not hide a spike.
  const raw = {
    ...base,
    y: curve.values,
    mode: "lines",
    line: { color, width: 1 },
    opacity: RAW_OPACITY,
    showlegend: false,
    hoverinfo: "skip",
    hovertemplate: undefined,
  };
  return [raw, line];
}

/** A horizontal reference line across the chart. */
function referenceTrace(reference: Reference, last: number, color: string): Data {
  return {
    type: "scatter",
    mode: "lines",
    x: [0, last],
    y: [reference.value, reference.value],
    name: reference.label,
    line: { color, width: 1.5, dash: "dash" },
    hovertemplate: `%{y:.4f}<extra>${reference.label}</extra>`,
  };
}

/** The Plotly figure of a line chart over optimizer steps. */
export function lineFigure(chart: LineChart, view: ViewOptions, theme: ChartTheme): Figure {
  const palette = theme.palette;
  const last = chart.curves
    .flatMap((curve) => curve.steps)
    .reduce((most, step) => Math.max(most, step), 1);
  const data = [
    ...chart.curves.flatMap((curve, index) =>
      curveTraces(curve, palette[index % palette.length] ?? theme.text, view),
    ),
    ...(chart.references ?? []).map((reference, index) =>
      referenceTrace(reference, last, index === 0 ? theme.muted : theme.text),
    ),
  ];
  const shown = data.filter((trace) => trace.showlegend !== false).length;
  return {
    data,
    layout: {
      uirevision: `${chart.id}-${view.log}`,
      autosize: true,
      margin: { l: 58, r: 12, t: shown > 1 ? 30 : 10, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: theme.font, size: 12, color: theme.text },
      showlegend: shown > 1,
      legend: { orientation: "h", x: 0, y: 1.02, xanchor: "left", yanchor: "bottom" },
      hovermode: "x unified",
      hoverlabel: { bgcolor: theme.surface, bordercolor: theme.grid, font: { color: theme.text } },
      dragmode: "zoom",
      xaxis: {
        title: { text: "step", font: { size: 11, color: theme.muted }, standoff: 6 },
        gridcolor: theme.grid,
        zeroline: false,
        rangemode: "tozero",
        tickformat: "~s",
        // Plotly would put ticks at half steps while there are few.
        dtick: last < FEW_STEPS ? 1 : undefined,
        hoverformat: ",d",
      },
      yaxis: {
        title: { text: chart.yTitle, font: { size: 11, color: theme.muted }, standoff: 8 },
        type: view.log && chart.allowLog ? "log" : "linear",
        gridcolor: theme.grid,
        zeroline: false,
        automargin: true,
        tickformat: chart.yFormat ?? "~g",
        dtick: chart.yInteger && !view.log ? 1 : undefined,
        exponentformat: "power",
      },
    },
  };
}
