/** A button with a confirmation dialog, which shows the error if the action fails. */
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
  /** Why the action is not available: hides the button, and closes an open dialog with this message. */
  unavailable?: string | null;
  "aria-label"?: string;
}

/** Tells the user why a dialog closed by itself. */
function notifyClosed(message: string): void {
  notifications.show({ color: "orange", message });
  // Keep the focus off the next button: a key meant for the dialog would press it.
  const heading = document.querySelector("h1");
  heading?.setAttribute("tabindex", "-1");
  heading?.focus();
}

export function ConfirmButton(props: ConfirmButtonProps) {
  const { children, title, question, confirm, onConfirm, unavailable, ...button } = props;
  const [opened, { open, close }] = useDisclosure(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<string | null>(null);
  const openTitle = useRef<string | null>(null);

  useEffect(() => {
    openTitle.current = opened && !busy ? title : null;
    if (!openTitle.current || !unavailable) return;
    close();
    notifyClosed(unavailable);
  }, [opened, busy, title, unavailable, close]);

  // The button may unmount with its dialog open, for instance when its table row is removed.
  useEffect(
    () => () => {
      if (openTitle.current)
        notifyClosed(`“${openTitle.current}” was closed. Nothing was changed.`);
    },
    [],
  );

  const act = async () => {
    if (!opened || unavailable) return; // the dialog is already fading out
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
      {!unavailable && (
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
              Go back
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
