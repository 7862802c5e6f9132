/** A run's page: state, live curves, log, config, lineage, files. */
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
import { Curves } from "./Curves";
import { Failure } from "./Failure";
import { Files } from "./Files";
import { Header } from "./Header";
import { Lineage } from "./Lineage";
import { LogPanel } from "./LogPanel";
import { PruneReportPanel, Results } from "./Results";
import { type Live, useLiveRun } from "./useLiveRun";

function Panels({ run, live }: { run: RunDetail; live: Live }) {
  const prune = run.kind === "prune";
  const [tab, setTab] = useState<string | null>(null);
  const shown = tab ?? (prune ? "tensors" : "curves");
  return (
    <Tabs value={shown} onChange={setTab} keepMounted={false}>
      <Tabs.List aria-label="Parts of the run">
        {prune ? (
          <Tabs.Tab value="tensors">Tensors</Tabs.Tab>
        ) : (
          <Tabs.Tab value="curves">Curves</Tabs.Tab>
        )}
        <Tabs.Tab value="log">Log</Tabs.Tab>
        <Tabs.Tab value="config">Config</Tabs.Tab>
        <Tabs.Tab value="files">Files</Tabs.Tab>
      </Tabs.List>
      <Tabs.Panel value="tensors" pt="md">
        <PruneReportPanel run={run} />
      </Tabs.Panel>
      <Tabs.Panel value="curves" pt="md">
        <Curves run={run} state={live.state} loading={live.link === "loading"} />
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
    // The stream brings every change; without it the page asks.
    refetchInterval: ({ state }) =>
      live.link === "live" || (state.data && isFinal(state.data.state)) ? false : 3000,
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
    const gone = isStatus(query.error, 404);
    return (
      <Alert color={gone ? "gray" : "red"} title={gone ? "There is no such run" : "Not available"}>
        {gone ? "It may have been deleted. " : `${messageOf(query.error)} `}
        <Anchor component={Link} to="/" size="sm">
          To the runs
        </Anchor>
      </Alert>
    );
  }
  return (
    <Stack gap="md">
      {/* What is typed or asked about one run never goes on at another one. */}
      <Header key={run.id} run={run} link={live.link} mayWrite={session?.scope !== "read"} />
      <Lineage run={run} />
      <Failure run={run} />
      {live.error && <Alert color="orange">{live.error}</Alert>}
      <Results run={run} />
      <Panels run={run} live={live} />
    </Stack>
  );
}
