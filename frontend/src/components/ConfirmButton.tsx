/** A button that asks before it acts, and shows what went wrong if it fails. */
import { Alert, Button, type ButtonProps, Group, Modal, Stack, Text } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { type ReactNode, useState } from "react";
import { messageOf } from "@/api/problem";

interface ConfirmButtonProps extends ButtonProps {
  children: ReactNode;
  title: string;
  question: ReactNode;
  confirm: string;
  onConfirm: () => Promise<unknown>;
  "aria-label"?: string;
}

export function ConfirmButton(props: ConfirmButtonProps) {
  const { children, title, question, confirm, onConfirm, ...button } = props;
  const [opened, { open, close }] = useDisclosure(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);

  const act = async () => {
    setBusy(true);
    setError(null);
    try {
      await onConfirm();
      close();
    } catch (reason) {
      setError(messageOf(reason));
    } finally {
      setBusy(false);
    }
  };

  return (
    <>
      <Button
        {...button}
        onClick={() => {
          setError(null);
          open();
        }}
      >
        {children}
      </Button>
      <Modal opened={opened} onClose={close} title={title} centered>
        <Stack>
          <Text size="sm" component="div">
            {question}
          </Text>
          {error && (
            <Alert color="red" role="alert">
              {error}
            </Alert>
          )}
          <Group justify="flex-end" gap="xs">
            <Button variant="default" onClick={close}>
              Keep
            </Button>
            <Button color="red" loading={busy} onClick={act} data-autofocus>
              {confirm}
            </Button>
          </Group>
        </Stack>
      </Modal>
    </>
  );
}
