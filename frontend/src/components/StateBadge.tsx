/** The state of a run as a badge with an icon and a tooltip. */
import { Badge } from "@mantine/core";
import {
  IconBan,
  IconCheck,
  IconClock,
  IconHourglass,
  IconPlayerPlayFilled,
  IconPlayerSkipForward,
  IconPlayerStop,
  IconX,
} from "@tabler/icons-react";
import type { RunState } from "@/api/types";

const STATES: Record<RunState, { color: string; icon: typeof IconCheck; hint: string }> = {
  waiting: { color: "gray", icon: IconHourglass, hint: "Waiting for input runs" },
  queued: { color: "indigo", icon: IconClock, hint: "Waiting for a free worker" },
  running: { color: "blue", icon: IconPlayerPlayFilled, hint: "Running on a worker" },
  cancelling: { color: "orange", icon: IconPlayerStop, hint: "Stopping after the current step" },
  succeeded: { color: "teal", icon: IconCheck, hint: "Finished; files can be downloaded" },
  failed: { color: "red", icon: IconX, hint: "Ended with an error" },
  cancelled: { color: "gray", icon: IconBan, hint: "Cancelled on request" },
  skipped: {
    color: "gray",
    icon: IconPlayerSkipForward,
    hint: "An input run did not succeed",
  },
};

export function StateBadge({ state, size = "md" }: { state: RunState; size?: "sm" | "md" | "lg" }) {
  const { color, icon: Icon, hint } = STATES[state];
  return (
    <Badge
      variant="light"
      color={color}
      size={size}
      leftSection={<Icon size={12} aria-hidden />}
      title={hint}
      data-state={state}
      tt="none"
      style={{ flexShrink: 0 }}
    >
      {state}
    </Badge>
  );
}
