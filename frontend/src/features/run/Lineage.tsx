/** The run's ancestors and descendants, as links. */
import { Group, Paper, Text } from "@mantine/core";
import { IconArrowRight } from "@tabler/icons-react";
import { Link } from "@tanstack/react-router";
import type { LineageRun, RunDetail } from "@/api/types";
import { StateBadge } from "@/components/StateBadge";
import { KIND_LABELS } from "@/features/runs/labels";

const ORDER: Record<LineageRun["kind"], number> = { teacher: 0, prune: 1, distill: 2 };

type Item = Pick<LineageRun, "id" | "name" | "kind" | "state">;

function unique(items: readonly Item[]): Item[] {
  return [...new Map(items.map((item) => [item.id, item])).values()];
}

export function Lineage({ run }: { run: RunDetail }) {
  const { ancestors, descendants } = run.lineage;
  if (ancestors.length === 0 && descendants.length === 0) return null;
  const items = unique([
    // The server lists the nearest ancestor first; the page shows the oldest first.
    ...[...ancestors].reverse().sort((a, b) => ORDER[a.kind] - ORDER[b.kind]),
    run,
    // By stage, so that a teacher's prune run precedes the distillation that uses both; the
    // descendants of a student keep the server's order.
    ...(run.kind === "distill"
      ? descendants
      : [...descendants].sort((a, b) => ORDER[a.kind] - ORDER[b.kind])),
  ]);
  return (
    <Group gap={6} component="nav" aria-label="Lineage">
      {items.map((item, index) => (
        <Group key={item.id} gap={6} wrap="nowrap" miw={0} maw="100%">
          {index > 0 && <IconArrowRight size={14} aria-hidden style={{ flexShrink: 0 }} />}
          <Paper
            px={8}
            py={4}
            bg={item.id === run.id ? "var(--mantine-color-lake-light)" : undefined}
            aria-current={item.id === run.id ? "page" : undefined}
            miw={0}
            maw={420}
          >
            <Group gap={6} wrap="nowrap">
              <Text size="xs" c="dimmed" style={{ flexShrink: 0 }}>
                {KIND_LABELS[item.kind]}
              </Text>
              {item.id === run.id ? (
                <Text size="sm" fw={550} truncate>
                  {item.name}
                </Text>
              ) : (
                <Link
                  to="/runs/$runId"
                  params={{ runId: item.id }}
                  className="link"
                  style={{ minWidth: 0 }}
                >
                  <Text size="sm" truncate>
                    {item.name}
                  </Text>
                </Link>
              )}
              <StateBadge state={item.state} size="sm" />
            </Group>
          </Paper>
        </Group>
      ))}
    </Group>
  );
}
