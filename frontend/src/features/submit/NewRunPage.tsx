/** A new run or pipeline: chooses the form, fills in its initial values, submits it. */
import {
  Alert,
  Button,
  Group,
  Menu,
  Paper,
  Skeleton,
  Stack,
  Tabs,
  Text,
  TextInput,
  Title,
} from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { IconChevronDown, IconRestore } from "@tabler/icons-react";
import { useQueries, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { client, unwrap } from "@/api/client";
import { messageOf } from "@/api/problem";
import { presetsQuery, runQuery, runsQuery, schemaQuery } from "@/api/queries";
import type { Config, FormKind, RunDetail } from "@/api/types";
import { useTitle } from "@/lib/title";
import { ConfigForm } from "./ConfigForm";
import { type Draft, dropDraft, loadDraft, saveDraft } from "./drafts";
import { copyName, pipelineConfig, referenceConfig } from "./prefill";
import type { Node } from "./schema";

const TABS: { kind: FormKind; label: string; hint: string; submit: string }[] = [
  {
    kind: "pipeline",
    label: "Full pipeline (3 runs)",
    hint: "Trains a teacher, prunes it to a student and distills the student: three linked runs.",
    submit: "Submit three runs",
  },
  {
    kind: "teacher",
    label: "Teacher",
    hint: "Trains a teacher with LayerDrop.",
    submit: "Submit run",
  },
  {
    kind: "prune",
    label: "Prune",
    hint: "Creates a student from selected layers of a teacher.",
    submit: "Submit run",
  },
  {
    kind: "distill",
    label: "Distill",
    hint: "Trains a student on a teacher's soft targets.",
    submit: "Submit run",
  },
];

const RESTORED = "Your unsaved changes were restored.";
const INCOMPLETE = "This pipeline cannot be copied: one of its runs was deleted.";

interface Initial {
  /** Changes with the initial values, so that the form is mounted again. */
  key: string;
  draft: Draft | null;
  note: string | null;
}

/** The initial values that the URL asks for; undefined while they are loading. */
function useInitial(): { kind: FormKind; initial: Initial | undefined; error: unknown } {
  const search = useSearch({ from: "/shell/new" });
  const presets = useQuery({ ...presetsQuery, enabled: search.preset !== undefined });
  const source = useQuery({ ...runQuery(search.from ?? ""), enabled: search.from !== undefined });
  const members = useQuery({
    ...runsQuery({ pipeline_id: search.pipeline, limit: 10 }, false),
    enabled: search.pipeline !== undefined,
  });
  const details = useQueries({
    queries: (search.pipeline ? (members.data?.items ?? []) : []).map((run) => runQuery(run.id)),
  });
  const key = JSON.stringify(search);
  const error =
    presets.error ?? source.error ?? members.error ?? details.find((d) => d.error)?.error;
  const ready = (kind: FormKind, draft: Draft | null, note: string | null) => {
    const own = loadDraft(kind);
    // Reloading or coming back to this URL must not lose what was typed.
    const initial =
      own?.origin === key && note
        ? { key, draft: own, note: `${note} ${RESTORED}` }
        : { key, draft, note };
    return { kind, initial, error: null };
  };

  if (search.from) {
    if (!source.data) return { kind: search.kind ?? "teacher", initial: undefined, error };
    const { kind, name, config } = source.data;
    return ready(kind, { name: copyName(name), config }, `Settings copied from “${name}”.`);
  }
  if (search.pipeline) {
    const runs = details.map((detail) => detail.data).filter((run): run is RunDetail => !!run);
    if (!members.data || runs.length < members.data.items.length) {
      return { kind: "pipeline", initial: undefined, error };
    }
    const config = pipelineConfig(runs);
    const note = config ? "Settings copied from the pipeline." : INCOMPLETE;
    return ready("pipeline", config ? { name: "", config } : null, note);
  }
  if (search.preset) {
    if (!presets.data) return { kind: search.kind ?? "pipeline", initial: undefined, error };
    const preset = presets.data.items.find((one) => one.id === search.preset);
    if (preset) {
      const note = `Preset: ${preset.title}. ${preset.description}`;
      return ready(preset.kind, { name: "", config: preset.config }, note);
    }
  }
  const kind = search.kind ?? "pipeline";
  const reference = referenceConfig(kind, search.teacher, search.student);
  if (reference) return ready(kind, { name: "", config: reference }, "Input runs are filled in.");
  const draft = loadDraft(kind);
  const note = draft ? RESTORED : null;
  return { kind, initial: { key, draft, note }, error: null };
}

function PresetMenu({ onChoose }: { onChoose: (kind: FormKind) => void }) {
  const presets = useQuery(presetsQuery);
  const navigate = useNavigate({ from: "/new" });
  return (
    <Menu width={340} position="bottom-end">
      <Menu.Target>
        <Button variant="default" size="xs" rightSection={<IconChevronDown size={14} />}>
          Presets
        </Button>
      </Menu.Target>
      <Menu.Dropdown>
        {presets.data?.items.map((preset) => (
          <Menu.Item
            key={preset.id}
            onClick={() => {
              onChoose(preset.kind);
              void navigate({ search: { kind: preset.kind, preset: preset.id } });
            }}
          >
            <Text size="sm" fw={550}>
              {preset.title}
            </Text>
            <Text size="xs" c="dimmed">
              {preset.description}
            </Text>
          </Menu.Item>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}

function useSubmit(kind: FormKind) {
  const queryClient = useQueryClient();
  const navigate = useNavigate();
  return async (name: string, config: Config) => {
    const body = { name: name.trim() || null, config: config as never };
    // Its type is the server's JSON Schema, not a TypeScript type; the server validates it again.
    if (kind === "pipeline") {
      const { runs } = await unwrap(client.POST("/api/v1/pipelines", { body }));
      dropDraft(kind);
      notifications.show({ message: "Submitted three runs." });
      await queryClient.invalidateQueries({ queryKey: ["runs"] });
      const first = runs[0];
      if (first) await navigate({ to: "/runs/$runId", params: { runId: first.id } });
      return;
    }
    const run = await unwrap(
      client.POST("/api/v1/runs", { body: { ...body, config: { ...config, kind } as never } }),
    );
    dropDraft(kind);
    await queryClient.invalidateQueries({ queryKey: ["runs"] });
    await navigate({ to: "/runs/$runId", params: { runId: run.id } });
  };
}

function FormPanel({ kind, initial }: { kind: FormKind; initial: Initial }) {
  const schema = useQuery(schemaQuery(kind));
  const submit = useSubmit(kind);
  const [name, setName] = useState(initial.draft?.name ?? "");
  const [config, setConfig] = useState<Config | undefined>(initial.draft?.config);
  // The note describes the initial values; it must not change while the user types.
  const [note] = useState(initial.note);
  const tab = TABS.find((one) => one.kind === kind);

  if (schema.error) return <Alert color="red">{messageOf(schema.error)}</Alert>;
  if (!schema.data) return <Skeleton h={480} />;
  return (
    <Stack gap="md">
      {note && (
        <Text size="sm" c="dimmed">
          {note}
        </Text>
      )}
      <TextInput
        label="Name"
        description="Leave empty to generate a name from the settings."
        maw={420}
        maxLength={200}
        value={name}
        onChange={(event) => {
          setName(event.currentTarget.value);
          saveDraft(kind, {
            name: event.currentTarget.value,
            config: config ?? {},
            origin: initial.key,
          });
        }}
      />
      <ConfigForm
        serverSchema={schema.data as Node}
        initial={initial.draft?.config}
        onChange={(next) => {
          setConfig(next);
          saveDraft(kind, { name, config: next, origin: initial.key });
        }}
        onSubmit={(next) => submit(name, next)}
        submitLabel={tab?.submit ?? "Submit"}
      />
    </Stack>
  );
}

export function NewRunPage() {
  useTitle("New run");
  const navigate = useNavigate({ from: "/new" });
  const { kind, initial, error } = useInitial();
  const [resets, setResets] = useState(0);
  const tab = TABS.find((one) => one.kind === kind);
  const startOver = (next: FormKind) => {
    dropDraft(next);
    setResets((count) => count + 1);
  };
  return (
    <Stack gap="md" maw={1080} mx="auto">
      <Group justify="space-between">
        <Title order={1} size="h2">
          New run
        </Title>
        <Group gap="xs">
          <Button
            variant="subtle"
            color="gray"
            size="xs"
            leftSection={<IconRestore size={14} />}
            onClick={() => {
              startOver(kind);
              void navigate({ search: { kind } });
            }}
          >
            Reset to defaults
          </Button>
          <PresetMenu onChoose={startOver} />
        </Group>
      </Group>
      <Tabs
        value={kind}
        onChange={(next) => next && void navigate({ search: { kind: next as FormKind } })}
      >
        <Tabs.List aria-label="Run kind">
          {TABS.map((one) => (
            <Tabs.Tab key={one.kind} value={one.kind}>
              {one.label}
            </Tabs.Tab>
          ))}
        </Tabs.List>
        <Tabs.Panel value={kind} pt="md">
          <Paper p={{ base: "sm", sm: "lg" }}>
            <Text size="sm" mb="sm">
              {tab?.hint}
            </Text>
            {error ? <Alert color="red">{messageOf(error)}</Alert> : null}
            {initial ? (
              <FormPanel key={`${initial.key}:${resets}`} kind={kind} initial={initial} />
            ) : (
              !error && <Skeleton h={480} />
            )}
          </Paper>
        </Tabs.Panel>
      </Tabs>
    </Stack>
  );
}
