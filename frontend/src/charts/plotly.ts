/** Types for the parts of Plotly that the charts use; the bundle ships none. */

export type Data = Record<string, unknown>;
export type Layout = Record<string, unknown>;

export interface PlotlyModule {
  react(
    element: HTMLElement,
    data: Data[],
    layout: Layout,
    config: Record<string, unknown>,
  ): Promise<unknown>;
  relayout(element: HTMLElement, update: Layout): Promise<unknown>;
  purge(element: HTMLElement): void;
  Plots: { resize(element: HTMLElement): Promise<unknown> | undefined };
}

let loading: Promise<PlotlyModule> | undefined;

/** Loads Plotly once, when the first chart appears. */
export function loadPlotly(): Promise<PlotlyModule> {
  loading ??= import("plotly.js-basic-dist-min").then(
    (module) => module.default,
    (error: unknown) => {
      loading = undefined;
      throw error;
    },
  );
  return loading;
}
