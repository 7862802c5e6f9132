/** The run's charts and their shared controls. */
import {
  Button,
  Checkbox,
  Group,
  Paper,
  SimpleGrid,
  Slider,
  Text,
  Title,
  useComputedColorScheme,
} from "@mantine/core";
import { useMemo, useState } from "react";
import type { RunDetail } from "@/api/types";
import { type LineChart, lineFigure, type ViewOptions } from "@/charts/figures";
import { Plot } from "@/charts/Plot";
import { chartTheme } from "@/charts/theme";
import { isFinal } from "@/features/runs/labels";
import { formatNumber } from "@/lib/format";
import { chartsFor } from "./charts";
import type { LiveState } from "./live";

const HEIGHT = 290;

/** The text alternative of a chart, for screen readers. */
function describe(chart: LineChart): string {
  const parts = chart.curves.map((curve) => {
    const last = curve.values.findLast((value) => value !== null) ?? null;
    return `${curve.label}: ${formatNumber(last)} at step ${curve.steps.at(-1) ?? 0}`;
  });
  return `Chart of ${chart.title}. ${parts.join(". ")}.`;
}

function ChartCard({
  chart,
  view,
  resets,
}: {
  chart: LineChart;
  view: ViewOptions;
  resets: number;
}) {
  const scheme = useComputedColorScheme("light");
  const figure = useMemo(() => lineFigure(chart, view, chartTheme(scheme)), [chart, view, scheme]);
  const last = chart.curves[0]?.values.findLast((value) => value !== null) ?? null;
  // With several curves it would be unclear to which one the value belongs.
  const single = chart.curves.filter((curve) => !curve.heldOut).length < 2;
  return (
    <Paper p="sm" data-chart={chart.id}>
      <Group justify="space-between" gap="xs">
        <Title order={3} size="h6">
          {chart.title}
        </Title>
        <Text size="sm" c="dimmed" className="numeric">
          {single ? formatNumber(last) : ""}
        </Text>
      </Group>
      <Plot figure={figure} label={describe(chart)} height={HEIGHT} resetCount={resets} />
    </Paper>
  );
}

function emptyText(run: RunDetail, loading: boolean): string {
  if (loading) return "Loading metrics …";
  if (isFinal(run.state)) return "The run ended before the first logged step.";
  return "No metrics yet. They appear after the first logged step.";
}

export function MetricsPanel({
  run,
  state,
  loading,
}: {
  run: RunDetail;
  state: LiveState;
  loading: boolean;
}) {
  const [smoothing, setSmoothing] = useState(0);
  const [log, setLog] = useState(false);
  const [resets, setResets] = useState(0);
  const charts = useMemo(
    () => chartsFor(run.kind, state, run.result),
    [run.kind, run.result, state],
  );
  const view = useMemo(() => ({ smoothing, log }), [smoothing, log]);
  if (charts.length === 0) {
    return (
      <Paper>
        <Text size="sm" c="dimmed" mih={60}>
          {emptyText(run, loading)}
        </Text>
      </Paper>
    );
  }
  return (
    <div>
      <Group gap="lg" mb="sm" wrap="wrap">
        <Group gap="xs" wrap="nowrap" w={230}>
          <Text size="xs" c="dimmed" id="smoothing-label">
            Smoothing
          </Text>
          <Slider
            flex={1}
            size="sm"
            min={0}
            max={0.98}
            step={0.02}
            value={smoothing}
            onChange={setSmoothing}
            label={(value) => value.toFixed(2)}
            thumbLabel="Smoothing"
          />
        </Group>
        <Checkbox
          size="xs"
          label="Log scale"
          checked={log}
          onChange={(event) => setLog(event.currentTarget.checked)}
        />
        <Button
          size="compact-xs"
          variant="subtle"
          color="gray"
          onClick={() => setResets((count) => count + 1)}
        >
          Reset zoom
        </Button>
        <Text size="xs" c="dimmed" visibleFrom="md">
          Drag to zoom, double-click to reset.
        </Text>
      </Group>
      <SimpleGrid cols={{ base: 1, md: 2 }} spacing="sm">
        {charts.map((chart) => (
          <ChartCard key={chart.id} chart={chart} view={view} resets={resets} />
        ))}
      </SimpleGrid>
    </div>
  );
}
