"""Stops the children of a process when it exits for any reason; imports nothing of Halflayer.

Reads `+PID` and `-PID` lines from stdin; each PID leads a process group. Only the parent holds the
other end of the pipe, so that its exit, even by SIGKILL, is the end of the input. Then every listed
group is stopped.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_S = 15.0


def alive(group: int) -> bool:
    """Whether the process group still has a member."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def stop_groups(groups: Iterable[int], grace_s: float = GRACE_S) -> None:
    """Send SIGTERM to all, then SIGKILL to those alive after `grace_s`."""
    left = set(groups)
    deadline = time.monotonic() + grace_s
    _signal_all(left, signal.SIGTERM)
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = {group for group in left if alive(group)}
    _signal_all(left, signal.SIGKILL)


def _signal_all(groups: Iterable[int], number: int) -> None:
    for group in groups:
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            continue


def main() -> None:
    """Read stdin to its end, then stop the remaining groups."""
    # Ctrl-C and a closing terminal are for the parent.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        sign, pid = line[0], int(line[1:])
        (groups.add if sign == "+" else groups.discard)(pid)
    stop_groups(groups)


if __name__ == "__main__":
    main()
