/** The layout of every page: navigation, worker status, colour scheme, account menu. */
import {
  ActionIcon,
  Alert,
  AppShell,
  Burger,
  Code,
  Container,
  Group,
  Image,
  Menu,
  Stack,
  Text,
  useComputedColorScheme,
  useMantineColorScheme,
} from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import {
  IconCpu,
  IconDeviceDesktop,
  IconLogout,
  IconMoon,
  IconPlus,
  IconSun,
  IconUserCircle,
} from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, Outlet, useNavigate } from "@tanstack/react-router";
import { useEffect } from "react";
import { client, unwrap } from "@/api/client";
import { isStatus } from "@/api/problem";
import { sessionQuery, workersQuery } from "@/api/queries";
import { LinkButton } from "@/components/LinkButton";
import { isConnected } from "@/features/workers/state";

function NavLinks({ onNavigate }: { onNavigate?: () => void }) {
  const { data: session } = useQuery(sessionQuery);
  return (
    <>
      <Link
        to="/"
        className="nav-link"
        activeOptions={{ exact: true, includeSearch: false }}
        onClick={onNavigate}
      >
        Runs
      </Link>
      <Link to="/datasets" className="nav-link" onClick={onNavigate}>
        Datasets
      </Link>
      <Link to="/workers" className="nav-link" onClick={onNavigate}>
        Workers
      </Link>
      {session?.scope === "admin" && (
        <Link to="/tokens" className="nav-link" onClick={onNavigate}>
          Tokens
        </Link>
      )}
    </>
  );
}

function ColorSchemeMenu() {
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const shown = useComputedColorScheme("light");
  return (
    <Menu position="bottom-end" width={160}>
      <Menu.Target>
        <ActionIcon variant="subtle" color="gray" size="lg" aria-label="Colour scheme">
          {shown === "dark" ? <IconMoon size={18} /> : <IconSun size={18} />}
        </ActionIcon>
      </Menu.Target>
      <Menu.Dropdown>
        {(
          [
            ["light", "Light", IconSun],
            ["dark", "Dark", IconMoon],
            ["auto", "System", IconDeviceDesktop],
          ] as const
        ).map(([value, label, Icon]) => (
          <Menu.Item
            key={value}
            leftSection={<Icon size={15} />}
            onClick={() => setColorScheme(value)}
            fw={colorScheme === value ? 600 : 400}
            aria-current={colorScheme === value}
          >
            {label}
          </Menu.Item>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}

function AccountMenu() {
  const { data: session } = useQuery(sessionQuery);
  const queryClient = useQueryClient();
  const navigate = useNavigate();
  const signOut = async () => {
    await unwrap(client.DELETE("/api/v1/session"));
    queryClient.clear();
    await navigate({ to: "/login" });
  };
  return (
    <Menu position="bottom-end" width={220}>
      <Menu.Target>
        <ActionIcon variant="subtle" color="gray" size="lg" aria-label="Account">
          <IconUserCircle size={18} />
        </ActionIcon>
      </Menu.Target>
      <Menu.Dropdown>
        <Menu.Label>
          Signed in with scope {session?.scope} · version {session?.version}
        </Menu.Label>
        <Menu.Item leftSection={<IconLogout size={15} />} onClick={() => void signOut()}>
          Sign out
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  );
}

function workerSummary(connected: number, busy: number): string {
  if (connected === 0) return "no workers";
  const workers = connected === 1 ? "worker" : "workers";
  if (busy === 0) return `${connected} ${workers} idle`;
  if (busy === connected) return `${connected} ${workers} busy`;
  return `${busy} of ${connected} workers busy`;
}

function WorkerIndicator() {
  const { data } = useQuery(workersQuery);
  if (!data) return null;
  const connected = data.items.filter(isConnected);
  const busy = connected.filter((worker) => worker.state === "busy").length;
  const label = workerSummary(connected.length, busy);
  return (
    <LinkButton
      variant="subtle"
      size="compact-sm"
      color={connected.length === 0 ? "orange" : "gray"}
      leftSection={<IconCpu size={15} />}
      to="/workers"
      visibleFrom="xs"
    >
      {label}
    </LinkButton>
  );
}

function NoWorkerBanner() {
  const { data } = useQuery(workersQuery);
  if (!data || data.items.some(isConnected)) return null;
  return (
    <Alert color="orange" title="No workers connected" mb="md" role="status">
      <Text size="sm">
        Submitted runs stay queued until a worker connects. Start one on this machine or another one
        with <Code>halflayer worker</Code>.
      </Text>
    </Alert>
  );
}

/** Redirects to the sign-in page when the session has ended. */
function useSignInRedirect(): void {
  const queryClient = useQueryClient();
  const navigate = useNavigate();
  useEffect(
    () =>
      queryClient.getQueryCache().subscribe((event) => {
        if (event.type !== "updated" || !isStatus(event.query.state.error, 401)) return;
        if (queryClient.getQueryData(sessionQuery.queryKey) === null) return;
        queryClient.setQueryData(sessionQuery.queryKey, null);
        const next = window.location.pathname + window.location.search;
        void navigate({ to: "/login", search: { next } });
      }),
    [queryClient, navigate],
  );
}

export function Shell() {
  const [opened, { toggle, close }] = useDisclosure(false);
  const { data: session } = useQuery(sessionQuery);
  useSignInRedirect();
  return (
    <AppShell
      header={{ height: 52 }}
      navbar={{ width: 220, breakpoint: "sm", collapsed: { mobile: !opened, desktop: true } }}
    >
      <a className="skip-link" href="#main">
        Skip to content
      </a>
      <AppShell.Header>
        <Container size={1320} h="100%" px="md">
          <Group h="100%" gap="sm" wrap="nowrap" justify="space-between">
            <Group gap="xs" wrap="nowrap">
              <Burger
                opened={opened}
                onClick={toggle}
                hiddenFrom="sm"
                size="sm"
                aria-label={opened ? "Close menu" : "Open menu"}
              />
              <Link to="/" className="plain" aria-label="Halflayer home">
                <Group gap={8} wrap="nowrap" mr="md">
                  <Image src="/favicon.svg" w={22} h={22} alt="" />
                  <Text fw={650}>Halflayer</Text>
                </Group>
              </Link>
              <Group component="nav" aria-label="Pages" gap={2} wrap="nowrap" visibleFrom="sm">
                <NavLinks />
              </Group>
            </Group>
            <Group gap={4} wrap="nowrap">
              <WorkerIndicator />
              <ColorSchemeMenu />
              <AccountMenu />
              {session?.scope !== "read" && (
                <LinkButton to="/new" size="xs" ml={4} leftSection={<IconPlus size={14} />}>
                  New run
                </LinkButton>
              )}
            </Group>
          </Group>
        </Container>
      </AppShell.Header>
      <AppShell.Navbar p="sm" hiddenFrom="sm">
        {/* A closed navbar is only moved off screen; without links it takes no focus. */}
        {opened && (
          <Stack component="nav" aria-label="Pages" gap={4}>
            <NavLinks onNavigate={close} />
          </Stack>
        )}
      </AppShell.Navbar>
      <AppShell.Main id="main">
        <Container size={1320} px="md" py="lg">
          <NoWorkerBanner />
          <Outlet />
        </Container>
      </AppShell.Main>
    </AppShell>
  );
}
