/** The page of a run: state, live metrics, log, config, lineage, files. */
import { Alert, Anchor, Skeleton, Stack, Tabs } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { useState } from "react";
import { isStatus, messageOf } from "@/api/problem";
import { runQuery, sessionQuery } from "@/api/queries";
import type { RunDetail } from "@/api/types";
import { isFinal } from "@/features/runs/labels";
import { useTitle } from "@/lib/title";
import { ConfigTable } from "./ConfigTable";
import { Failure } from "./Failure";
import { Files } from "./Files";
import { Header } from "./Header";
import { Lineage } from "./Lineage";
import { LogPanel } from "./LogPanel";
import { MetricsPanel } from "./MetricsPanel";
import { PruneReportPanel, Results } from "./Results";
import { type Live, useLiveRun } from "./useLiveRun";

function Panels({ run, live }: { run: RunDetail; live: Live }) {
  const prune = run.kind === "prune";
  const [tab, setTab] = useState<string | null>(null);
  const shown = tab ?? (prune ? "tensors" : "metrics");
  return (
    <Tabs value={shown} onChange={setTab} keepMounted={false}>
      <Tabs.List aria-label="Run details">
        {prune ? (
          <Tabs.Tab value="tensors">Tensors</Tabs.Tab>
        ) : (
          <Tabs.Tab value="metrics">Metrics</Tabs.Tab>
        )}
        <Tabs.Tab value="log">Log</Tabs.Tab>
        <Tabs.Tab value="config">Config</Tabs.Tab>
        <Tabs.Tab value="files">Files</Tabs.Tab>
      </Tabs.List>
      <Tabs.Panel value="tensors" pt="md">
        <PruneReportPanel run={run} />
      </Tabs.Panel>
      <Tabs.Panel value="metrics" pt="md">
        <MetricsPanel run={run} state={live.state} loading={live.connection === "loading"} />
      </Tabs.Panel>
      <Tabs.Panel value="log" pt="md">
        <LogPanel state={live.state} />
      </Tabs.Panel>
      <Tabs.Panel value="config" pt="md">
        <ConfigTable config={run.config} />
      </Tabs.Panel>
      <Tabs.Panel value="files" pt="md">
        <Files run={run} />
      </Tabs.Panel>
    </Tabs>
  );
}

export function RunPage() {
  const { runId } = useParams({ from: "/shell/runs/$runId" });
  const { data: session } = useQuery(sessionQuery);
  const live = useLiveRun(runId);
  const query = useQuery({
    ...runQuery(runId),
    // The stream delivers every change; without it the page polls.
    refetchInterval: ({ state }) =>
      live.connection === "live" || (state.data && isFinal(state.data.state)) ? false : 3000,
  });
  const run = query.data;
  useTitle(run ? `${run.name} (${run.state})` : "Run");

  if (!run) {
    if (!query.error) {
      return (
        <Stack gap="md">
          <Skeleton h={36} w={320} />
          <Skeleton h={70} />
          <Skeleton h={320} />
        </Stack>
      );
    }
    const notFound = isStatus(query.error, 404);
    return (
      <Alert
        color={notFound ? "gray" : "red"}
        title={notFound ? "Run not found" : "This run could not be loaded"}
      >
        {notFound ? "It may have been deleted. " : `${messageOf(query.error)} `}
        <Anchor component={Link} to="/" size="sm">
          Back to runs
        </Anchor>
      </Alert>
    );
  }
  return (
    <Stack gap="md">
      {/* Keyed by run, so that its input and dialogs never carry over to another run. */}
      <Header
        key={run.id}
        run={run}
        connection={live.connection}
        mayWrite={session?.scope !== "read"}
      />
      <Lineage run={run} />
      <Failure run={run} />
      {live.error && <Alert color="orange">{live.error}</Alert>}
      <Results run={run} />
      <Panels run={run} live={live} />
    </Stack>
  );
}
