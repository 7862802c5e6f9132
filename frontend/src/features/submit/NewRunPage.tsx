/** A new run or pipeline: which form, where it starts, and sending it off. */
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
    label: "Whole pipeline",
    hint: "Trains a teacher, prunes a student out of it and distils it: three linked runs.",
    submit: "Submit three runs",
  },
  {
    kind: "teacher",
    label: "Teacher",
    hint: "Trains a teacher with LayerDrop.",
    submit: "Submit run",
  },
  { kind: "prune", label: "Prune", hint: "Cuts a student out of a teacher.", submit: "Submit run" },
  {
    kind: "distill",
    label: "Distil",
    hint: "Trains a student on a teacher's soft targets.",
    submit: "Submit run",
  },
];

interface Start {
  /** Changes with every new start, so that the form is built anew. */
  key: string;
  draft: Draft | null;
  note: string | null;
}

/** What the address asks the form to start from; undefined while it is being fetched. */
function useAddressStart(): { kind: FormKind; start: Start | undefined; error: unknown } {
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
    // Reloading, or coming back to this address, must not cost what was typed here.
    const start =
      own?.origin === key && note
        ? { key, draft: own, note: `${note} With your changes from before.` }
        : { key, draft, note };
    return { kind, start, error: null };
  };

  if (search.from) {
    if (!source.data) return { kind: search.kind ?? "teacher", start: undefined, error };
    const { kind, name, config } = source.data;
    return ready(kind, { name: copyName(name), config }, `A copy of “${name}”.`);
  }
  if (search.pipeline) {
    const runs = details.map((detail) => detail.data).filter((run): run is RunDetail => !!run);
    if (!members.data || runs.length < members.data.items.length) {
      return { kind: "pipeline", start: undefined, error };
    }
    const config = pipelineConfig(runs);
    const note = config ? "A copy of the pipeline." : "The pipeline is no longer complete.";
    return ready("pipeline", config ? { name: "", config } : null, note);
  }
  if (search.preset) {
    if (!presets.data) return { kind: search.kind ?? "pipeline", start: undefined, error };
    const preset = presets.data.items.find((one) => one.id === search.preset);
    if (preset) {
      const note = `Preset: ${preset.title}. ${preset.description}`;
      return ready(preset.kind, { name: "", config: preset.config }, note);
    }
  }
  const kind = search.kind ?? "pipeline";
  const reference = referenceConfig(kind, search.teacher, search.student);
  if (reference)
    return ready(kind, { name: "", config: reference }, "With the runs already named.");
  const draft = loadDraft(kind);
  const note = draft ? "Your draft from before." : null;
  return { kind, start: { key, draft, note }, error: null };
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
    // The body is what the server's own schema describes; the server checks it again.
    if (kind === "pipeline") {
      const { runs } = await unwrap(client.POST("/api/v1/pipelines", { body }));
      dropDraft(kind);
      notifications.show({ message: "Three runs were submitted." });
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

function FormPanel({ kind, start }: { kind: FormKind; start: Start }) {
  const schema = useQuery(schemaQuery(kind));
  const submit = useSubmit(kind);
  const [name, setName] = useState(start.draft?.name ?? "");
  const [config, setConfig] = useState<Config | undefined>(start.draft?.config);
  // The note says where the form started; typing must not turn it into "your draft".
  const [note] = useState(start.note);
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
        description="Left empty, it is named after its settings."
        maw={420}
        maxLength={200}
        value={name}
        onChange={(event) => {
          setName(event.currentTarget.value);
          saveDraft(kind, {
            name: event.currentTarget.value,
            config: config ?? {},
            origin: start.key,
          });
        }}
      />
      <ConfigForm
        serverSchema={schema.data as Node}
        initial={start.draft?.config}
        onChange={(next) => {
          setConfig(next);
          saveDraft(kind, { name, config: next, origin: start.key });
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
  const { kind, start, error } = useAddressStart();
  const [resets, setResets] = useState(0);
  const tab = TABS.find((one) => one.kind === kind);
  const startAnew = (next: FormKind) => {
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
              startAnew(kind);
              void navigate({ search: { kind } });
            }}
          >
            Back to the defaults
          </Button>
          <PresetMenu onChoose={startAnew} />
        </Group>
      </Group>
      <Tabs
        value={kind}
        onChange={(next) => next && void navigate({ search: { kind: next as FormKind } })}
      >
        <Tabs.List aria-label="Kind of run">
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
            {start ? (
              <FormPanel key={`${start.key}:${resets}`} kind={kind} start={start} />
            ) : (
              !error && <Skeleton h={480} />
            )}
          </Paper>
        </Tabs.Panel>
      </Tabs>
    </Stack>
  );
}
