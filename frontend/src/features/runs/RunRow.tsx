/** A row of the run list, and the card around the runs of a pipeline. */
import { Badge, Group, Paper, Text } from "@mantine/core";
import { IconCopy, IconGitBranch, IconPinFilled } from "@tabler/icons-react";
import { Link } from "@tanstack/react-router";
import type { RunSummary } from "@/api/types";
import { LinkButton } from "@/components/LinkButton";
import { ProgressCell } from "@/components/ProgressCell";
import { StateBadge } from "@/components/StateBadge";
import { formatAgo, formatTime } from "@/lib/format";
import { KIND_LABELS, keyResult, type RunGroup } from "./labels";

export function RunRow({ run }: { run: RunSummary }) {
  const result = keyResult(run);
  return (
    <div className="run-row" data-run={run.id}>
      <Group gap={8} wrap="nowrap" miw={0}>
        <Badge variant="outline" color="gray" size="sm" w={66} tt="none" style={{ flexShrink: 0 }}>
          {KIND_LABELS[run.kind]}
        </Badge>
        <Link
          to="/runs/$runId"
          params={{ runId: run.id }}
          className="plain"
          style={{ minWidth: 0 }}
        >
          <Text size="sm" fw={550} lineClamp={2}>
            {run.name}
          </Text>
        </Link>
        {run.pinned && (
          <IconPinFilled size={14} role="img" aria-label="pinned" style={{ flexShrink: 0 }} />
        )}
      </Group>
      <div>
        <StateBadge state={run.state} />
      </div>
      <div className="wide">
        <ProgressCell run={run} />
      </div>
      <Text size="sm" className="numeric">
        {result ? (
          <>
            {result.value}{" "}
            <Text span size="xs" c="dimmed">
              {result.label}
            </Text>
          </>
        ) : (
          <Text span c="dimmed" visibleFrom="sm">
            –
          </Text>
        )}
      </Text>
      <Text size="xs" c="dimmed" title={formatTime(run.created_at)} ta="right">
        {formatAgo(run.created_at)}
      </Text>
    </div>
  );
}

export function RunGroupCard({ group, mayWrite }: { group: RunGroup; mayWrite: boolean }) {
  const pipeline = group.pipelineId !== null;
  return (
    <Paper p={0} className={pipeline ? "run-group" : undefined}>
      {pipeline && (
        <Group justify="space-between" px={14} pt={6} gap={4}>
          <Group gap={6}>
            <IconGitBranch size={14} aria-hidden />
            <Text size="xs" c="dimmed">
              Pipeline {group.pipelineId}
            </Text>
          </Group>
          {mayWrite && group.runs.length === 3 && (
            <LinkButton
              to="/new"
              search={{ kind: "pipeline", pipeline: group.pipelineId ?? undefined }}
              size="compact-xs"
              variant="subtle"
              color="gray"
              leftSection={<IconCopy size={12} />}
            >
              Duplicate
            </LinkButton>
          )}
        </Group>
      )}
      {group.runs.map((run) => (
        <RunRow key={run.id} run={run} />
      ))}
    </Paper>
  );
}
