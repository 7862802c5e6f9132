/** The config as a table, and as JSON to copy. */
import { Button, CopyButton, Group, Paper, Table, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { datasetsQuery } from "@/api/queries";
import type { Config } from "@/api/types";
import { flatten, type Row } from "./flatten";

function Dataset({ id }: { id: string }) {
  const { data } = useQuery(datasetsQuery());
  const name = data?.items.find((dataset) => dataset.id === id)?.name;
  return name === undefined ? (
    id
  ) : (
    <>
      {name}{" "}
      <Text span size="xs" c="dimmed">
        {id}
      </Text>
    </>
  );
}

function Value({ row }: { row: Row }) {
  if (row.refersTo === "dataset") return <Dataset id={row.value} />;
  if (row.refersTo === "run") {
    return (
      <Link to="/runs/$runId" params={{ runId: row.value }}>
        {row.value}
      </Link>
    );
  }
  return row.value;
}

export function ConfigTable({ config }: { config: Config }) {
  return (
    <div>
      <Group justify="flex-end" mb="xs">
        <CopyButton value={JSON.stringify(config, null, 2)}>
          {({ copied, copy }) => (
            <Button size="compact-xs" variant="light" onClick={copy}>
              {copied ? "Copied" : "Copy as JSON"}
            </Button>
          )}
        </CopyButton>
      </Group>
      <Paper p={0} className="scroll-x">
        <Table verticalSpacing={5} striped>
          <Table.Tbody>
            {flatten(config).map((row) => (
              <Table.Tr key={row.path}>
                <Table.Th w="45%" fw={400}>
                  {row.section && (
                    <Text span size="sm" c="dimmed">
                      {row.section} ›{" "}
                    </Text>
                  )}
                  {row.label}
                </Table.Th>
                <Table.Td className="mono">
                  <Value row={row} />
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Paper>
    </div>
  );
}
