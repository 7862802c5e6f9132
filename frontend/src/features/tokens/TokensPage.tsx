/** API tokens and sign-in links: list, create (the secret is shown once), revoke. */
import {
  Alert,
  Badge,
  Button,
  Code,
  CopyButton,
  Group,
  NumberInput,
  Paper,
  Select,
  Stack,
  Table,
  Text,
  TextInput,
  Title,
} from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { client, unwrap } from "@/api/client";
import { messageOf } from "@/api/problem";
import { tokensQuery } from "@/api/queries";
import type { CreatedToken, Scope, TokenInfo } from "@/api/types";
import { ConfirmButton } from "@/components/ConfirmButton";
import { DataTable } from "@/components/DataTable";
import { formatAgo, formatTime } from "@/lib/format";
import { useTitle } from "@/lib/title";

const KIND_LABELS: Record<TokenInfo["kind"], string> = {
  api: "API token",
  login: "sign-in link",
  session: "browser session",
};

/** The secret to copy: a URL for a sign-in link, else the token itself. */
function secretText(token: CreatedToken): string {
  if (token.kind !== "login") return token.token;
  return `${window.location.origin}/login#token=${token.token}`;
}

function Secret({ token, onClose }: { token: CreatedToken; onClose: () => void }) {
  return (
    <Alert
      color="teal"
      title={`“${token.name}” was created`}
      withCloseButton
      onClose={onClose}
      closeButtonLabel="Hide"
      role="status"
    >
      <Stack gap="xs">
        <Text size="sm">
          Copy the {token.kind === "login" ? "link" : "token"} now; it will not be shown again.
        </Text>
        <Group gap="xs">
          <Code style={{ overflowWrap: "anywhere" }}>{secretText(token)}</Code>
          <CopyButton value={secretText(token)}>
            {({ copied, copy }) => (
              <Button size="compact-xs" variant="light" onClick={copy}>
                {copied ? "Copied" : "Copy"}
              </Button>
            )}
          </CopyButton>
        </Group>
      </Stack>
    </Alert>
  );
}

function CreateForm({ onCreated }: { onCreated: (token: CreatedToken) => void }) {
  const queryClient = useQueryClient();
  const [name, setName] = useState("");
  const [scope, setScope] = useState<Scope>("submit");
  const [kind, setKind] = useState<"api" | "login">("api");
  const [days, setDays] = useState<number | string>(90);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);

  const create = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      const body = {
        name: name.trim(),
        scope,
        kind,
        expires_days: typeof days === "number" ? days : null,
      };
      onCreated(await unwrap(client.POST("/api/v1/tokens", { body })));
      setName("");
      await queryClient.invalidateQueries({ queryKey: tokensQuery.queryKey });
    } catch (reason) {
      setError(messageOf(reason));
    } finally {
      setBusy(false);
    }
  };

  return (
    <Paper component="form" onSubmit={(event) => void create(event)}>
      <Group align="flex-end" gap="sm">
        <TextInput
          label="Name"
          placeholder="e.g. notebook"
          value={name}
          onChange={(event) => setName(event.currentTarget.value)}
          maxLength={200}
          flex="1 1 180px"
        />
        <Select
          label="Kind"
          w={150}
          allowDeselect={false}
          value={kind}
          onChange={(value) => setKind(value === "login" ? "login" : "api")}
          data={[
            { value: "api", label: "API token" },
            { value: "login", label: "Sign-in link" },
          ]}
        />
        <Select
          label="Scope"
          w={120}
          allowDeselect={false}
          value={scope}
          onChange={(value) => value && setScope(value as Scope)}
          data={["read", "submit", "admin"]}
        />
        <NumberInput
          label="Expires after"
          placeholder={kind === "login" ? "1 day" : "never"}
          suffix=" days"
          w={130}
          min={1}
          max={3650}
          value={days}
          onChange={setDays}
        />
        <Button type="submit" loading={busy} disabled={!name.trim()}>
          Create
        </Button>
      </Group>
      {error && (
        <Text size="sm" c="red" mt="xs" role="alert">
          {error}
        </Text>
      )}
    </Paper>
  );
}

function TokenRow({ token, onRevoked }: { token: TokenInfo; onRevoked: () => void }) {
  const queryClient = useQueryClient();
  const revoke = async () => {
    await unwrap(
      client.DELETE("/api/v1/tokens/{token_id}", { params: { path: { token_id: token.id } } }),
    );
    onRevoked();
    await queryClient.invalidateQueries({ queryKey: tokensQuery.queryKey });
  };
  return (
    <Table.Tr>
      <Table.Td>
        <Text size="sm" fw={500}>
          {token.name}
        </Text>
        <Text size="xs" c="dimmed">
          {KIND_LABELS[token.kind]}
        </Text>
      </Table.Td>
      <Table.Td>
        <Badge variant="light" color="gray" tt="none">
          {token.scope}
        </Badge>
      </Table.Td>
      <Table.Td>{formatTime(token.created_at)}</Table.Td>
      <Table.Td>{token.expires_at ? formatTime(token.expires_at) : "never"}</Table.Td>
      <Table.Td>{token.last_used_at ? formatAgo(token.last_used_at) : "never"}</Table.Td>
      <Table.Td>
        <ConfirmButton
          size="compact-xs"
          variant="subtle"
          color="red"
          title="Revoke this token?"
          question={
            <>
              Clients that use <b>{token.name}</b> lose access immediately.
            </>
          }
          confirm="Revoke"
          onConfirm={revoke}
          aria-label={`Revoke ${token.name}`}
        >
          Revoke
        </ConfirmButton>
      </Table.Td>
    </Table.Tr>
  );
}

export function TokensPage() {
  useTitle("Tokens");
  const tokens = useQuery(tokensQuery);
  const [created, setCreated] = useState<CreatedToken | null>(null);
  return (
    <Stack gap="md">
      <div>
        <Title order={1} size="h2">
          Tokens
        </Title>
        <Text size="sm" c="dimmed">
          Scripts send an API token as <Code>Authorization: Bearer hl_…</Code>. A sign-in link opens
          a browser session and works once; a new link replaces an unused one of the same name.
          Scopes are read, submit and admin; each includes the previous ones.
        </Text>
      </div>
      {created && <Secret token={created} onClose={() => setCreated(null)} />}
      <CreateForm onCreated={setCreated} />
      <DataTable
        query={tokens}
        columns={["Name", "Scope", "Created", "Expires", "Last used", ""]}
        minWidth={760}
        empty="No tokens yet."
        row={(token) => (
          <TokenRow
            key={token.id}
            token={token}
            onRevoked={() => token.id === created?.id && setCreated(null)}
          />
        )}
      />
    </Stack>
  );
}
