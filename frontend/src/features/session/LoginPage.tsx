/** Sign-in with the link that the server prints, or with a pasted token. */
import {
  Alert,
  Button,
  Center,
  Code,
  Group,
  Image,
  Paper,
  PasswordInput,
  Stack,
  Text,
  Title,
} from "@mantine/core";
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { type FormEvent, useCallback, useEffect, useRef, useState } from "react";
import { client, unwrap } from "@/api/client";
import { messageOf } from "@/api/problem";
import { sessionQuery } from "@/api/queries";
import { useTitle } from "@/lib/title";
import { safeNext, tokenFromFragment } from "./signInLink";

export function LoginPage() {
  useTitle("Sign in");
  const { next } = useSearch({ from: "/login" });
  const navigate = useNavigate();
  const queryClient = useQueryClient();
  const [token, setToken] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const tried = useRef(false);

  const signIn = useCallback(
    async (secret: string) => {
      setBusy(true);
      setError(null);
      try {
        await unwrap(client.POST("/api/v1/session", { body: { token: secret } }));
        queryClient.removeQueries({ queryKey: sessionQuery.queryKey });
        await navigate({ to: safeNext(next), replace: true });
      } catch (reason) {
        setError(messageOf(reason));
      } finally {
        setBusy(false);
      }
    },
    [navigate, next, queryClient],
  );

  useEffect(() => {
    const secret = tokenFromFragment(window.location.hash);
    // A link works once: React's second effect run in development must not use it twice.
    if (!secret || tried.current) return;
    tried.current = true;
    window.history.replaceState(
      window.history.state,
      "",
      window.location.pathname + window.location.search,
    );
    void signIn(secret);
  }, [signIn]);

  const submit = (event: FormEvent) => {
    event.preventDefault();
    const secret = token.trim();
    if (secret) void signIn(tokenFromFragment(secret.replace(/^[^#]*/, "")) ?? secret);
  };

  return (
    <Center mih="100vh" p="md" component="main">
      <Paper w={420} maw="100%" p="lg">
        <form onSubmit={submit}>
          <Stack>
            <Group gap="xs">
              <Image src="/favicon.svg" w={26} h={26} alt="" />
              <Title order={1} size="h3">
                Sign in to Halflayer
              </Title>
            </Group>
            <Text size="sm" c="dimmed">
              Open the sign-in link that <Code>halflayer up</Code> printed, or paste it here. Each
              link works once; <Code>halflayer token create --login</Code> creates a new one.
            </Text>
            <PasswordInput
              label="Sign-in link or token"
              placeholder="hl_login_…"
              value={token}
              onChange={(event) => setToken(event.currentTarget.value)}
              autoComplete="off"
              error={error}
              autoFocus
            />
            <Button type="submit" loading={busy} disabled={!token.trim()}>
              Sign in
            </Button>
            {busy && !token && (
              <Alert color="lake" role="status">
                Signing in …
              </Alert>
            )}
          </Stack>
        </form>
      </Paper>
    </Center>
  );
}
