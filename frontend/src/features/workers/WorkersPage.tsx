/** The workers with their state, device and current run. */
import { Badge, Code, Stack, Table, Text, Title } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { workersQuery } from "@/api/queries";
import type { Worker } from "@/api/types";
import { DataTable } from "@/components/DataTable";
import { formatAgo, formatBytes, formatTime } from "@/lib/format";
import { useTitle } from "@/lib/title";

const COLORS: Record<Worker["state"], string> = {
  idle: "teal",
  busy: "blue",
  lost: "red",
  stopped: "gray",
};

function WorkerRow({ worker }: { worker: Worker }) {
  return (
    <Table.Tr>
      <Table.Td>
        <Text size="sm" fw={500}>
          {worker.hostname}
        </Text>
        <Text size="xs" c="dimmed" className="mono">
          {worker.id}
        </Text>
      </Table.Td>
      <Table.Td>
        <Badge variant="light" color={COLORS[worker.state]} tt="none">
          {worker.state}
        </Badge>
        {worker.note && (
          <Text size="xs" c="orange" maw={220}>
            {worker.note}
          </Text>
        )}
      </Table.Td>
      <Table.Td>
        {worker.device_name}
        <Text size="xs" c="dimmed">
          {worker.device} · {formatBytes(worker.memory_bytes)}
        </Text>
      </Table.Td>
      <Table.Td>
        {worker.run_id ? (
          <Link className="link" to="/runs/$runId" params={{ runId: worker.run_id }}>
            {worker.run_id}
          </Link>
        ) : (
          "–"
        )}
      </Table.Td>
      <Table.Td title={formatTime(worker.seen_at)}>{formatAgo(worker.seen_at)}</Table.Td>
      <Table.Td>{formatTime(worker.started_at)}</Table.Td>
      <Table.Td>{worker.version}</Table.Td>
    </Table.Tr>
  );
}

export function WorkersPage() {
  useTitle("Workers");
  const workers = useQuery(workersQuery);
  return (
    <Stack gap="md">
      <div>
        <Title order={1} size="h2">
          Workers
        </Title>
        <Text size="sm" c="dimmed">
          Each worker uses one device or one group of devices and trains one run at a time. Start
          one with <Code>halflayer worker</Code> on any machine that can reach the database, the
          broker and the file store.
        </Text>
      </div>
      <DataTable
        query={workers}
        columns={["Host", "State", "Device", "Run", "Last seen", "Started", "Version"]}
        minWidth={760}
        empty="No workers yet."
        row={(worker) => <WorkerRow key={worker.id} worker={worker} />}
      />
    </Stack>
  );
}
