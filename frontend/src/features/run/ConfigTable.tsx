/** The config as a table to read, and as JSON to copy. */
import { Button, CopyButton, Group, Paper, Table, Text } from "@mantine/core";
import type { Config } from "@/api/types";
import { flatten } from "./flatten";

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
                <Table.Td className="mono">{row.value}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Paper>
    </div>
  );
}
