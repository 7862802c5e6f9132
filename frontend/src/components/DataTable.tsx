/** A table of a query's items, with its loading, error and empty states. */
import { Alert, Paper, Skeleton, Table, Text } from "@mantine/core";
import type { UseQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { messageOf } from "@/api/problem";

interface DataTableProps<T> {
  query: UseQueryResult<{ items: T[] }>;
  /** Column headings; an empty one is for the action buttons. */
  columns: string[];
  row: (item: T) => ReactNode;
  /** Shown when there are no items. */
  empty: ReactNode;
  /** In pixels; narrower screens scroll the table sideways. */
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
