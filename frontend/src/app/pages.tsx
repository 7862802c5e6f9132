/** The loading, error and not-found pages. */
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
      <Alert color="red" title="This page could not be loaded" role="alert">
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
  useTitle("Page not found");
  return (
    <Container size="sm" py="xl">
      <Stack gap="xs">
        <Title order={1} size="h2">
          Page not found
        </Title>
        <Text c="dimmed">Check the address; the item may have been deleted.</Text>
        <Anchor href="/">Back to runs</Anchor>
      </Stack>
    </Container>
  );
}
