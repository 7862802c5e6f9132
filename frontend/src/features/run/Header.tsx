/** Name, state and progress of a run, and its actions. */
import {
  ActionIcon,
  Alert,
  Button,
  Group,
  Paper,
  Progress,
  Stack,
  Text,
  TextInput,
  Title,
  Tooltip,
} from "@mantine/core";
import { notifications } from "@mantine/notifications";
import {
  IconCheck,
  IconCopy,
  IconPencil,
  IconPin,
  IconPinFilled,
  IconX,
} from "@tabler/icons-react";
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type FormEvent, useEffect, useState } from "react";
import { client, unwrap } from "@/api/client";
import { messageOf } from "@/api/problem";
import { runQuery } from "@/api/queries";
import type { RunDetail } from "@/api/types";
import { ConfirmButton } from "@/components/ConfirmButton";
import { LinkButton } from "@/components/LinkButton";
import { StateBadge } from "@/components/StateBadge";
import { etaText, isFinal, KIND_LABELS, percent, progressText } from "@/features/runs/labels";
import { capitalise, elapsedSeconds, formatCount, formatDuration, formatTime } from "@/lib/format";
import type { Connection } from "./useLiveRun";

const PINNED = "Pinned: files are kept by cleanup";

function Name({ run, mayWrite }: { run: RunDetail; mayWrite: boolean }) {
  const queryClient = useQueryClient();
  const [editing, setEditing] = useState(false);
  const [name, setName] = useState(run.name);
  const [error, setError] = useState<string | null>(null);
  const save = async (event: FormEvent) => {
    event.preventDefault();
    try {
      const renamed = await unwrap(
        client.PATCH("/api/v1/runs/{run_id}", {
          params: { path: { run_id: run.id } },
          body: { name },
        }),
      );
      queryClient.setQueryData(runQuery(run.id).queryKey, renamed);
      setEditing(false);
      setError(null);
    } catch (reason) {
      setError(messageOf(reason));
    }
  };
  if (!editing) {
    return (
      <Group gap={4} wrap="nowrap" miw={0}>
        <Title order={1} size="h3" style={{ minWidth: 0 }}>
          {run.name}
        </Title>
        {mayWrite && (
          <ActionIcon
            variant="subtle"
            color="gray"
            aria-label="Rename run"
            onClick={() => {
              setName(run.name);
              setEditing(true);
            }}
          >
            <IconPencil size={15} />
          </ActionIcon>
        )}
      </Group>
    );
  }
  return (
    <form onSubmit={(event) => void save(event)}>
      <Group gap={4} wrap="nowrap" align="flex-start">
        <TextInput
          aria-label="Run name"
          value={name}
          onChange={(event) => setName(event.currentTarget.value)}
          onKeyDown={(event) => event.key === "Escape" && setEditing(false)}
          maxLength={200}
          error={error}
          autoFocus
          w={320}
        />
        <ActionIcon type="submit" variant="light" size={36} aria-label="Save name">
          <IconCheck size={16} />
        </ActionIcon>
        <ActionIcon
          variant="subtle"
          color="gray"
          size={36}
          aria-label="Discard changes"
          onClick={() => setEditing(false)}
        >
          <IconX size={16} />
        </ActionIcon>
      </Group>
    </form>
  );
}

/** Shows whether the run is pinned; a toggle for users who may change runs. */
function Pin({ run, mayWrite }: { run: RunDetail; mayWrite: boolean }) {
  const queryClient = useQueryClient();
  const toggle = async () => {
    try {
      const changed = await unwrap(
        client.PATCH("/api/v1/runs/{run_id}", {
          params: { path: { run_id: run.id } },
          body: { pinned: !run.pinned },
        }),
      );
      queryClient.setQueryData(runQuery(run.id).queryKey, changed);
    } catch (reason) {
      notifications.show({ color: "red", message: messageOf(reason) });
    }
  };
  if (!mayWrite && !run.pinned) return null;
  return (
    <Tooltip label={run.pinned ? PINNED : "Pin: keep the files during cleanup"}>
      <ActionIcon
        variant="subtle"
        color={run.pinned ? undefined : "gray"}
        aria-label={mayWrite ? "Pin run" : PINNED}
        aria-pressed={run.pinned}
        disabled={!mayWrite}
        onClick={() => void toggle()}
      >
        {run.pinned ? <IconPinFilled size={15} /> : <IconPin size={15} />}
      </ActionIcon>
    </Tooltip>
  );
}

function NextStep({ run }: { run: RunDetail }) {
  if (run.files_removed_at) return null;
  if (["failed", "cancelled", "cancelling", "skipped"].includes(run.state)) return null;
  if (run.kind === "teacher") {
    return (
      <LinkButton to="/new" search={{ kind: "prune", teacher: run.id }} size="xs" variant="light">
        Prune
      </LinkButton>
    );
  }
  if (run.kind !== "prune") return null;
  const teacher = run.inputs.find((input) => input.role === "teacher")?.run_id;
  return (
    <LinkButton
      to="/new"
      search={{ kind: "distill", teacher, student: run.id }}
      size="xs"
      variant="light"
    >
      Distill
    </LinkButton>
  );
}

function Actions({ run }: { run: RunDetail }) {
  const queryClient = useQueryClient();
  const navigate = useNavigate();
  const cancelling = run.state === "cancelling";
  const params = { path: { run_id: run.id } };
  const cancel = async () => {
    const cancelled = await unwrap(client.POST("/api/v1/runs/{run_id}/cancel", { params }));
    queryClient.setQueryData(runQuery(run.id).queryKey, cancelled);
  };
  const remove = async () => {
    await unwrap(client.DELETE("/api/v1/runs/{run_id}", { params }));
    await navigate({ to: "/" });
    queryClient.removeQueries({ queryKey: ["run", run.id] });
    await queryClient.invalidateQueries({ queryKey: ["runs"] });
    notifications.show({ message: `${run.name} was deleted.` });
  };
  return (
    <Group gap="xs">
      <NextStep run={run} />
      <LinkButton
        to="/new"
        search={{ from: run.id }}
        size="xs"
        variant="default"
        leftSection={<IconCopy size={14} />}
      >
        Duplicate
      </LinkButton>
      {/* Two separate buttons, so that an open dialog never changes from one to the other. */}
      <ConfirmButton
        size="xs"
        variant="light"
        color="red"
        title="Cancel this run?"
        question={
          "The run stops after the current step and cannot be resumed. Metrics and log are kept, " +
          "but no checkpoint can be downloaded. Runs that depend on it are skipped."
        }
        confirm="Cancel run"
        onConfirm={cancel}
        unavailable={
          isFinal(run.state)
            ? `The run has already ended (${run.state}). Nothing was changed.`
            : cancelling
              ? "The run is already being cancelled."
              : null
        }
      >
        Cancel
      </ConfirmButton>
      {cancelling && (
        <Button size="xs" variant="light" color="red" disabled>
          Cancelling …
        </Button>
      )}
      {isFinal(run.state) && (
        <ConfirmButton
          size="xs"
          variant="light"
          color="red"
          title="Delete this run?"
          question={
            <>
              This permanently deletes <b>{run.name}</b> with its metrics, log and files.
            </>
          }
          confirm="Delete run"
          onConfirm={remove}
        >
          Delete
        </ConfirmButton>
      )}
    </Group>
  );
}

/** The current time; renders every second while `ticking`. */
function useNow(ticking: boolean): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    if (!ticking) return;
    const timer = window.setInterval(() => setNow(Date.now()), 1000);
    return () => window.clearInterval(timer);
  }, [ticking]);
  return now;
}

const CONNECTION_LABELS: Record<Connection, string> = {
  loading: "connecting …",
  live: "live",
  polling: "refreshed every few seconds",
  ended: "",
};

export function Header({
  run,
  connection,
  mayWrite,
}: {
  run: RunDetail;
  connection: Connection;
  mayWrite: boolean;
}) {
  const active = run.state === "running" || run.state === "cancelling";
  const now = useNow(active);
  const elapsed = elapsedSeconds(run.started_at, run.finished_at, now);
  const done = percent(run.progress);
  const details = [
    `submitted ${formatTime(run.created_at)}`,
    run.worker ? `${run.worker.device_name} on ${run.worker.hostname}` : null,
    elapsed === null ? null : `${active ? "running for" : "took"} ${formatDuration(elapsed)}`,
    run.attempt > 1 ? `attempt ${run.attempt}` : null,
    active && run.checkpoint_step !== null
      ? `checkpoint at step ${formatCount(run.checkpoint_step)}`
      : null,
  ].filter(Boolean);
  return (
    <Stack gap="xs">
      <Group justify="space-between" gap="xs" align="flex-start">
        <Group gap={4} wrap="nowrap" align="flex-start" miw={0}>
          <Name run={run} mayWrite={mayWrite} />
          <Pin run={run} mayWrite={mayWrite} />
        </Group>
        {mayWrite && <Actions run={run} />}
      </Group>
      <Group gap="xs">
        <StateBadge state={run.state} />
        <Text size="sm">{KIND_LABELS[run.kind]}</Text>
        <Text size="sm" c="dimmed" className="mono">
          {run.id}
        </Text>
        <Text size="sm" c="dimmed">
          {details.join(" · ")}
        </Text>
      </Group>
      {run.recovering && (
        <Alert color="orange" p="xs" role="status">
          Connection to the worker was lost. The run will resume automatically from{" "}
          {run.checkpoint_step === null
            ? "the beginning"
            : `step ${formatCount(run.checkpoint_step)}`}
          .
        </Alert>
      )}
      {!isFinal(run.state) && (
        <Paper p="sm">
          <Group justify="space-between" mb={6} gap="xs">
            <Text size="sm" className="numeric" aria-live="off">
              {active
                ? run.progress
                  ? capitalise(progressText(run.progress))
                  : "Starting"
                : run.state === "waiting"
                  ? "Waiting for input runs"
                  : "Waiting for a free worker"}
            </Text>
            <Group gap="md">
              <Text size="sm" c="dimmed">
                {etaText(run.progress)}
              </Text>
              <Text size="xs" c="dimmed">
                {CONNECTION_LABELS[connection]}
              </Text>
            </Group>
          </Group>
          <Progress
            value={active ? (done ?? 100) : 0}
            animated={active && done === null}
            striped={active && done === null}
            aria-label="Phase progress"
          />
        </Paper>
      )}
    </Stack>
  );
}
