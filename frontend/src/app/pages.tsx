/** What is shown instead of a page: loading, an error, an address that leads nowhere. */
import {
  Alert,
  Anchor,
  Button,
  Center,
  Container,
  Loader,
  Stack,
  Text,
  Title,
} from "@mantine/core";
import { useRouter } from "@tanstack/react-router";
import { messageOf } from "@/api/problem";
import { useTitle } from "@/lib/title";

export function LoadingPage() {
  return (
    <Center mih={240}>
      <Loader size="sm" aria-label="Loading" />
    </Center>
  );
}

export function ErrorPage({ error }: { error: unknown }) {
  const router = useRouter();
  return (
    <Container size="sm" py="xl">
      <Alert color="red" title="This page could not be shown" role="alert">
        <Stack gap="sm" align="flex-start">
          <Text size="sm">{messageOf(error)}</Text>
          <Button size="xs" variant="light" color="red" onClick={() => void router.invalidate()}>
            Try again
          </Button>
        </Stack>
      </Alert>
    </Container>
  );
}

export function NotFoundPage() {
  useTitle("Not found");
  return (
    <Container size="sm" py="xl">
      <Stack gap="xs">
        <Title order={1} size="h2">
          There is nothing here
        </Title>
        <Text c="dimmed">The address may be mistyped, or what was here has been deleted.</Text>
        <Anchor href="/">To the runs</Anchor>
      </Stack>
    </Container>
  );
}
