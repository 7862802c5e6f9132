/** Why a run failed, and how to fix it. */
import { Alert, Code, Text } from "@mantine/core";
import type { RunDetail } from "@/api/types";
import { capitalise } from "@/lib/format";

const ADVICE: Record<string, { title: string; advice: string }> = {
  config: {
    title: "Invalid configuration",
    advice: "Duplicate the run and change the setting named in the message.",
  },
  data: {
    title: "The data could not be loaded",
    advice:
      "Check the dataset, its text column and the connection to the HuggingFace hub, then duplicate the run.",
  },
  nan: {
    title: "The loss became NaN or infinite",
    advice:
      "Lower the learning rate or weight decay, add warmup, clip gradients, or train in fp32.",
  },
  oom_device: {
    title: "Out of device memory",
    advice: "Use a smaller model, shorter sequences, or a device with more memory.",
  },
  oom_host: {
    title: "Out of host memory",
    advice: "Use a smaller model, shorter sequences, or a host with more memory.",
  },
  disk_full: {
    title: "The disk is full",
    advice: "Delete runs or datasets that are no longer needed, then duplicate the run.",
  },
  device_lost: {
    title: "No working device",
    advice:
      "Several attempts found the GPU missing, busy or broken. Check the Workers page and the GPU driver of the host, then duplicate the run.",
  },
  worker_lost: {
    title: "The run was lost repeatedly",
    advice: "Several attempts ended without progress. Check the worker's host and its log.",
  },
  internal: {
    title: "Unexpected error",
    advice: "See the log for details. This is a bug in Halflayer; please report it.",
  },
};

export function Failure({ run }: { run: RunDetail }) {
  if (!run.error) return null;
  const known = ADVICE[run.error.code];
  return (
    <Alert color="red" title={known?.title ?? "The run failed"} role="alert">
      <Text size="sm" style={{ whiteSpace: "pre-wrap" }}>
        {capitalise(run.error.message)}
      </Text>
      {known && (
        <Text size="sm" mt={6}>
          {known.advice}
        </Text>
      )}
      <Text size="xs" c="dimmed" mt={6}>
        Error code <Code>{run.error.code}</Code>, attempt {run.attempt}
      </Text>
    </Alert>
  );
}
