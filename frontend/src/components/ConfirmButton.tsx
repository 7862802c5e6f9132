/** A button that asks before it acts, and shows what went wrong if it fails. */
import { Alert, Button, type ButtonProps, Group, Modal, Stack, Text } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { notifications } from "@mantine/notifications";
import { type ReactNode, useEffect, useRef, useState } from "react";
import { messageOf } from "@/api/problem";

interface ConfirmButtonProps extends ButtonProps {
  children: ReactNode;
  title: string;
  question: ReactNode;
  confirm: string;
  onConfirm: () => Promise<unknown>;
  /** Why this can no longer be done: the button goes, and an open dialog closes and says so. */
  impossible?: string | null;
  "aria-label"?: string;
}

/** Says why a dialog closed by itself. */
function sayClosed(message: string): void {
  notifications.show({ color: "orange", message });
  // The focus must not fall on whatever button comes next: a key meant for the dialog would press it.
  const heading = document.querySelector("h1");
  heading?.setAttribute("tabindex", "-1");
  heading?.focus();
}

export function ConfirmButton(props: ConfirmButtonProps) {
  const { children, title, question, confirm, onConfirm, impossible, ...button } = props;
  const [opened, { open, close }] = useDisclosure(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const unanswered = useRef<string | null>(null);

  useEffect(() => {
    unanswered.current = opened && !busy ? title : null;
    if (!unanswered.current || !impossible) return;
    close();
    sayClosed(impossible);
  }, [opened, busy, title, impossible, close]);

  // What the dialog asks about may leave the page, for instance with its row of a table.
  useEffect(
    () => () => {
      if (unanswered.current) sayClosed(`“${unanswered.current}” was closed; nothing was done.`);
    },
    [],
  );

  const act = async () => {
    if (!opened || impossible) return; // the dialog is fading out
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
      {!impossible && (
        <Button
          {...button}
          onClick={() => {
            setError(null);
            open();
          }}
        >
          {children}
        </Button>
      )}
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
