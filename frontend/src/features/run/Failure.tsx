/** Why a run failed, and what one can do about it. */
import { Alert, Code, Text } from "@mantine/core";
import type { RunDetail } from "@/api/types";
import { sentence } from "@/lib/format";

const ADVICE: Record<string, { title: string; advice: string }> = {
  config: {
    title: "The configuration cannot work",
    advice: "Duplicate the run and change the setting that the message names.",
  },
  data: {
    title: "The data could not be used",
    advice: "Check the dataset, its column and the connection to the hub, then duplicate the run.",
  },
  nan: {
    title: "The loss is no longer a number",
    advice:
      "Lower the learning rate or weight decay, add warm-up, clip gradients, or train in fp32.",
  },
  oom_device: {
    title: "The device ran out of memory",
    advice: "Take a smaller model or shorter sequences, or a device with more memory.",
  },
  oom_host: {
    title: "The machine ran out of memory",
    advice: "Take a smaller model or shorter sequences, or a machine with more memory.",
  },
  disk_full: {
    title: "The disk is full",
    advice: "Delete runs or datasets that are no longer needed, then duplicate the run.",
  },
  device_lost: {
    title: "No device worked",
    advice:
      "Several attempts met a GPU that is missing, busy or broken. Look at the Workers page and at the machine's driver, then duplicate the run.",
  },
  worker_lost: {
    title: "Its workers disappeared",
    advice: "Several attempts ended without progress. Look at the worker's machine and its log.",
  },
  internal: {
    title: "An unexpected error",
    advice: "The log has the details. This is a bug of Halflayer's: please report it.",
  },
};

export function Failure({ run }: { run: RunDetail }) {
  if (!run.error) return null;
  const known = ADVICE[run.error.code];
  return (
    <Alert color="red" title={known?.title ?? "The run failed"} role="alert">
      <Text size="sm" style={{ whiteSpace: "pre-wrap" }}>
        {sentence(run.error.message)}
      </Text>
      {known && (
        <Text size="sm" mt={6}>
          {known.advice}
        </Text>
      )}
      <Text size="xs" c="dimmed" mt={6}>
        Code <Code>{run.error.code}</Code>, attempt {run.attempt}
      </Text>
    </Alert>
  );
}
