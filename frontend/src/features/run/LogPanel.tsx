/** The run's log, with a filter by level; follows new lines until the user scrolls up. */
import { Button, Group, Paper, SegmentedControl, Text } from "@mantine/core";
import { useEffect, useMemo, useRef, useState } from "react";
import type { LiveState } from "./live";

type Level = "info" | "warning" | "error";
const RANK: Record<string, number> = { info: 0, warning: 1, error: 2 };

function clock(iso: string): string {
  return new Date(iso).toLocaleTimeString("en-GB");
}

export function LogPanel({ state }: { state: LiveState }) {
  const [level, setLevel] = useState<Level>("info");
  const [following, setFollowing] = useState(true);
  const box = useRef<HTMLDivElement>(null);
  const lines = useMemo(
    () => state.log.filter((line) => (RANK[line.level] ?? 0) >= (RANK[level] ?? 0)),
    [state.log, level],
  );

  // biome-ignore lint/correctness/useExhaustiveDependencies: new lines are the reason to scroll
  useEffect(() => {
    if (following && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines, following]);

  const scrolled = () => {
    const element = box.current;
    if (!element) return;
    setFollowing(element.scrollHeight - element.scrollTop - element.clientHeight < 24);
  };

  return (
    <div>
      <Group justify="space-between" mb="xs">
        <SegmentedControl
          size="xs"
          value={level}
          onChange={(value) => setLevel(value as Level)}
          data={[
            { value: "info", label: "All" },
            { value: "warning", label: "Warnings" },
            { value: "error", label: "Errors" },
          ]}
          aria-label="Minimum level"
        />
        <Button
          size="compact-xs"
          variant="subtle"
          disabled={following}
          onClick={() => setFollowing(true)}
        >
          {following ? "Following" : "Jump to latest"}
        </Button>
      </Group>
      <Paper p={0} py={8}>
        <div
          ref={box}
          onScroll={scrolled}
          role="log"
          aria-label="Run log"
          // Scrollable areas must be reachable by keyboard.
          // biome-ignore lint/a11y/noNoninteractiveTabindex: see above
          tabIndex={0}
          className="mono"
          style={{ height: 360, overflowY: "auto" }}
        >
          {state.logTruncated && (
            <Text size="xs" c="dimmed" px={12}>
              Earlier lines are not shown.
            </Text>
          )}
          {lines.length === 0 && (
            <Text size="sm" c="dimmed" px={12}>
              No log lines.
            </Text>
          )}
          {lines.map((line) => (
            <div key={line.seq} className="log-line" data-level={line.level}>
              <Text span c="dimmed" inherit>
                {clock(line.time)}
              </Text>
              <span className="message">
                {line.level === "info" ? "" : `${line.level}: `}
                {line.message}
              </span>
            </div>
          ))}
        </div>
      </Paper>
    </div>
  );
}
