/** A thin React wrapper of Plotly: draws the figure it is given, and nothing else. */
import { Center, Loader, Text } from "@mantine/core";
import { useEffect, useRef, useState } from "react";
import type { Figure } from "./figures";
import { loadPlotly, type PlotlyModule } from "./plotly";

interface PlotProps {
  figure: Figure;
  /** What a screen reader says in place of the picture. */
  label: string;
  height: number;
  /** A change of this number brings back the whole range. */
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
  const [broken, setBroken] = useState(false);

  useEffect(() => {
    let gone = false;
    loadPlotly().then(
      (module) => !gone && setPlotly(() => module),
      () => !gone && setBroken(true),
    );
    return () => {
      gone = true;
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
          {broken ? (
            <Text size="sm" c="dimmed">
              The chart library could not be loaded. Reload the page to try again.
            </Text>
          ) : (
            <Loader size="sm" aria-label="Loading the chart" />
          )}
        </Center>
      )}
    </div>
  );
}
