/** A table of what a query brings: also while it loads, when it fails, and when it is empty. */
import { Alert, Paper, Skeleton, Table, Text } from "@mantine/core";
import type { UseQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { messageOf } from "@/api/problem";

interface DataTableProps<T> {
  query: UseQueryResult<{ items: T[] }>;
  /** The heads; an empty one stands over buttons. */
  columns: string[];
  row: (item: T) => ReactNode;
  /** What to say, and what to do, while there is nothing. */
  empty: ReactNode;
  /** Narrower screens scroll the table sideways. */
  minWidth: number;
}

export function DataTable<T>({ query, columns, row, empty, minWidth }: DataTableProps<T>) {
  const items = query.data?.items;
  return (
    <>
      {query.error && (
        <Alert color="red" role="alert">
          {messageOf(query.error)}
        </Alert>
      )}
      {query.isPending && <Skeleton h={120} />}
      {items?.length === 0 && (
        <Paper>
          <Text c="dimmed" size="sm" component="div">
            {empty}
          </Text>
        </Paper>
      )}
      {items && items.length > 0 && (
        <Paper p={0} className="scroll-x">
          <Table verticalSpacing="xs" miw={minWidth}>
            <Table.Thead>
              <Table.Tr>
                {columns.map((column) => (
                  <Table.Th
                    key={column}
                    aria-label={column ? undefined : "Actions"}
                    style={{ whiteSpace: "nowrap" }}
                  >
                    {column}
                  </Table.Th>
                ))}
              </Table.Tr>
            </Table.Thead>
            <Table.Tbody>{items.map(row)}</Table.Tbody>
          </Table>
        </Paper>
      )}
    </>
  );
}
