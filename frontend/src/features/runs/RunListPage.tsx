/** All runs, newest first; the filters are kept in the URL. */
import {
  Alert,
  Button,
  Card,
  Group,
  Pagination,
  Select,
  SimpleGrid,
  Skeleton,
  Stack,
  Text,
  TextInput,
  Title,
} from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { IconSearch } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { messageOf } from "@/api/problem";
import { presetsQuery, runsQuery, sessionQuery } from "@/api/queries";
import type { RunKind, RunState } from "@/api/types";
import { LinkButton } from "@/components/LinkButton";
import { formatCount } from "@/lib/format";
import { useTitle } from "@/lib/title";
import { groupRuns, KIND_LABELS } from "./labels";
import { RunGroupCard } from "./RunRow";

const PAGE_SIZE = 30;
const STATE_OPTIONS: RunState[] = [
  "waiting",
  "queued",
  "running",
  "cancelling",
  "succeeded",
  "failed",
  "cancelled",
  "skipped",
];

function useFilters() {
  const search = useSearch({ from: "/shell/" });
  const navigate = useNavigate({ from: "/" });
  const change = (update: Partial<typeof search>) =>
    void navigate({ search: { ...search, page: undefined, ...update }, replace: true });
  return { search, change };
}

function Filters() {
  const { search, change } = useFilters();
  const [query, setQuery] = useState(search.q ?? "");
  const apply = useDebouncedCallback(
    (text: string) => change({ q: text.trim() || undefined }),
    250,
  );
  return (
    <Group gap="xs" role="search" aria-label="Filter runs">
      <TextInput
        aria-label="Search by name or id"
        placeholder="Search by name or id"
        size="xs"
        w={{ base: "100%", xs: 220 }}
        leftSection={<IconSearch size={14} aria-hidden />}
        value={query}
        onChange={(event) => {
          setQuery(event.currentTarget.value);
          apply(event.currentTarget.value);
        }}
      />
      <Select
        aria-label="State"
        placeholder="Any state"
        size="xs"
        w={130}
        clearable
        data={STATE_OPTIONS}
        value={search.state ?? null}
        onChange={(state) => change({ state: (state as RunState | null) ?? undefined })}
      />
      <Select
        aria-label="Kind"
        placeholder="Any kind"
        size="xs"
        w={120}
        clearable
        data={Object.entries(KIND_LABELS).map(([value, label]) => ({ value, label }))}
        value={search.kind ?? null}
        onChange={(kind) => change({ kind: (kind as RunKind | null) ?? undefined })}
      />
    </Group>
  );
}

function Presets() {
  const { data } = useQuery(presetsQuery);
  return (
    <Stack gap="md" py="lg">
      <div>
        <Title order={2} size="h3">
          No runs yet
        </Title>
        <Text c="dimmed" maw={640}>
          Train a teacher with LayerDrop, prune it to a student, then distill the student. Start
          from a preset; every setting can be changed before you submit.
        </Text>
      </div>
      <SimpleGrid cols={{ base: 1, sm: 2, lg: 3 }}>
        {data?.items.map((preset) => (
          <Card key={preset.id} withBorder>
            <Stack gap={6} h="100%" justify="space-between">
              <div>
                <Text fw={600}>{preset.title}</Text>
                <Text size="sm" c="dimmed">
                  {preset.description}
                </Text>
              </div>
              <LinkButton
                to="/new"
                search={{ kind: preset.kind, preset: preset.id }}
                variant="light"
                size="xs"
                mt="xs"
                w="fit-content"
              >
                Use this preset
              </LinkButton>
            </Stack>
          </Card>
        ))}
      </SimpleGrid>
    </Stack>
  );
}

export function RunListPage() {
  useTitle("Runs");
  const { search, change } = useFilters();
  const { data: session } = useQuery(sessionQuery);
  const page = search.page ?? 1;
  const runs = useQuery(
    runsQuery({
      state: search.state,
      kind: search.kind,
      q: search.q,
      limit: PAGE_SIZE,
      offset: (page - 1) * PAGE_SIZE,
    }),
  );
  const filtered = Boolean(search.state || search.kind || search.q);
  const total = runs.data?.total ?? 0;
  const pages = Math.ceil(total / PAGE_SIZE);
  return (
    <Stack gap="md">
      <Group justify="space-between" align="center">
        <Group gap="xs" align="baseline">
          <Title order={1} size="h2">
            Runs
          </Title>
          <Text size="sm" c="dimmed" aria-live="polite">
            {runs.data ? formatCount(total) : ""}
          </Text>
        </Group>
        <Filters />
      </Group>
      {runs.error && (
        <Alert color="red" title="The run list could not be refreshed" role="alert">
          {messageOf(runs.error)}
        </Alert>
      )}
      {runs.isPending && [1, 2, 3].map((row) => <Skeleton key={row} h={58} />)}
      {runs.data && total === 0 && !filtered && <Presets />}
      {runs.data && total === 0 && filtered && (
        <Stack align="center" py="xl" gap="xs">
          <Text c="dimmed">No runs match these filters.</Text>
          <Button
            variant="light"
            size="xs"
            onClick={() => change({ q: undefined, state: undefined, kind: undefined })}
          >
            Clear filters
          </Button>
        </Stack>
      )}
      <Stack gap={8}>
        {groupRuns(runs.data?.items ?? []).map((group) => (
          <RunGroupCard key={group.key} group={group} mayWrite={session?.scope !== "read"} />
        ))}
      </Stack>
      {pages > 1 && (
        <Group justify="center">
          <Pagination
            size="sm"
            total={pages}
            value={page}
            onChange={(next) => change({ page: next > 1 ? next : undefined })}
            getControlProps={(control) => ({ "aria-label": `${control} page` })}
          />
        </Group>
      )}
    </Stack>
  );
}
