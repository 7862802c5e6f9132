/** A thin React wrapper around Plotly that draws the given figure. */
import { Center, Loader, Text } from "@mantine/core";
import { useEffect, useRef, useState } from "react";
import type { Figure } from "./figures";
import { loadPlotly, type PlotlyModule } from "./plotly";

interface PlotProps {
  figure: Figure;
  /** The text alternative for screen readers. */
  label: string;
  height: number;
  /** Changing this number resets the zoom. */
  resetCount?: number;
}

const CONFIG = {
  displaylogo: false,
  displayModeBar: false,
  responsive: false,
  showTips: false,
  doubleClick: "reset+autosize",
};

export function Plot({ figure, label, height, resetCount = 0 }: PlotProps) {
  const element = useRef<HTMLDivElement>(null);
  const [plotly, setPlotly] = useState<PlotlyModule | null>(null);
  const [failed, setFailed] = useState(false);

  useEffect(() => {
    let unmounted = false;
    loadPlotly().then(
      (module) => !unmounted && setPlotly(() => module),
      () => !unmounted && setFailed(true),
    );
    return () => {
      unmounted = true;
    };
  }, []);

  useEffect(() => {
    const target = element.current;
    if (!plotly || !target) return;
    // Plotly keeps the zoom across updates as long as `uirevision` stays the same.
    void plotly.react(target, figure.data, { ...figure.layout, height }, CONFIG);
  }, [plotly, figure, height]);

  useEffect(() => {
    const target = element.current;
    if (!plotly || !target) return;
    const observer = new ResizeObserver(() => void plotly.Plots.resize(target));
    observer.observe(target);
    return () => {
      observer.disconnect();
      plotly.purge(target);
    };
  }, [plotly]);

  useEffect(() => {
    const target = element.current;
    if (!plotly || !target || resetCount === 0) return;
    void plotly.relayout(target, { "xaxis.autorange": true, "yaxis.autorange": true });
  }, [plotly, resetCount]);

  return (
    <div style={{ height, position: "relative" }}>
      <div ref={element} role="img" aria-label={label} style={{ height, width: "100%" }} />
      {!plotly && (
        <Center style={{ position: "absolute", inset: 0 }}>
          {failed ? (
            <Text size="sm" c="dimmed">
              The chart library could not be loaded. Reload the page to try again.
            </Text>
          ) : (
            <Loader size="sm" aria-label="Loading chart" />
          )}
        </Center>
      )}
    </div>
  );
}
