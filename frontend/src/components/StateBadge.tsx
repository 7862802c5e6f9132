/** The state of a run, by word, icon and colour. */
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

const LOOK: Record<RunState, { color: string; icon: typeof IconCheck; hint: string }> = {
  waiting: { color: "gray", icon: IconHourglass, hint: "Waits for the runs that it starts from" },
  queued: { color: "indigo", icon: IconClock, hint: "Waits for a free worker" },
  running: { color: "blue", icon: IconPlayerPlayFilled, hint: "A worker is on it" },
  cancelling: { color: "orange", icon: IconPlayerStop, hint: "Was asked to stop" },
  succeeded: { color: "teal", icon: IconCheck, hint: "Done; its files can be downloaded" },
  failed: { color: "red", icon: IconX, hint: "Ended with an error" },
  cancelled: { color: "gray", icon: IconBan, hint: "Was stopped on request" },
  skipped: {
    color: "gray",
    icon: IconPlayerSkipForward,
    hint: "A run that it starts from ended badly",
  },
};

export function StateBadge({ state, size = "md" }: { state: RunState; size?: "sm" | "md" | "lg" }) {
  const { color, icon: Icon, hint } = LOOK[state];
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
