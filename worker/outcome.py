"""What a trainer's exit means: a result, a typed failure, a stop, or a loss that is retried."""

import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.errors import (
    MEMORY_ADVICE,
    FailureCode,
    says_device_lost,
    says_no_device_memory,
    says_no_memory,
    says_rank_lost,
)
from kdcore.events import Ending, RunFailed, RunResult
from kdcore.process import EXIT_DISK_FULL, EXIT_RANK_LOST, EXIT_STOPPED, EXIT_USAGE
from kdcore.shapes import ModelShape

_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that other processes send; the others come from the process itself."""

_CGROUPS = Path("/sys/fs/cgroup")
_WHOLE_MACHINE = Path("/proc/vmstat")


@dataclass(frozen=True)
class Succeeded:
    """The result is in the attempt's folder."""

    summary: dict[str, Any]
    shape: ModelShape | None = None


@dataclass(frozen=True)
class Failed:
    """The run itself went wrong; a retry would not help."""

    code: FailureCode
    message: str


@dataclass(frozen=True)
class Stopped:
    """The trainer exited because we asked it to."""


@dataclass(frozen=True)
class Lost:
    """Something outside ended the trainer; the run can resume from its checkpoint."""

    reason: str
    code: FailureCode = "worker_lost"
    """What the run fails with if this happens too often."""


Outcome = Succeeded | Failed | Stopped | Lost


class OomWatch:
    """Notices whether the kernel's out-of-memory killer struck since the watch began."""

    def __init__(self, counter: Path) -> None:
        self._counter = counter
        self._before = self._read()

    def struck(self) -> bool:
        """Whether the kernel's counter has risen."""
        return self._read() > self._before

    def _read(self) -> int:
        try:
            lines = self._counter.read_text().splitlines()
        except OSError:
            return 0
        counts = (line.partition(" ")[2] for line in lines if line.startswith("oom_kill "))
        return sum(int(count) for count in counts)


def oom_counter(groups: Path, cgroups: Path = _CGROUPS) -> Path:
    """The file whose `oom_kill` counts the kills nearest to a process; `groups`: its
    /proc/PID/cgroup.

    That of its own control group (cgroups(7)), in version 2 or 1, counts the group's members only,
    no matter which process ran out of memory. The whole machine's counter, for processes without
    such a group, also counts kills of unrelated processes.
    """
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, kinds, place = line.split(":", 2)
            if kinds == "":
                root, name = cgroups, "memory.events"
            elif "memory" in kinds.split(","):
                root, name = cgroups / "memory", "memory.oom_control"
            else:
                continue
            # A container sees its own group at the top, whatever its name outside.
            for file in (root / place.lstrip("/") / name, root / name):
                if file.is_file():
                    return file
    return _WHOLE_MACHINE


def outcome_of(
    status: int,
    ending: Ending | None,
    *,
    asked_to_stop: bool,
    oom_killed: bool,
    stderr_tail: str,
    hung_s: float | None = None,
) -> Outcome:
    """Classify a trainer's exit by its status (negative: a signal) and the last event that
    announced it.

    `hung_s`: the worker killed it after this long without output.
    """
    if isinstance(ending, RunResult):
        # It is published. While it exits a process handles signals no more, and dies of them.
        return Succeeded(ending.summary, ending.shape)
    if status == 0:
        return Failed("internal", "the trainer exited without a result" + _last_output(stderr_tail))
    hung = hung_s is not None and status < 0
    if isinstance(ending, RunFailed) and (status > 0 or hung):
        code, message = ending.code, ending.message
        return Lost(message, code) if code == "device_lost" else Failed(code, message)
    if status == EXIT_DISK_FULL:
        return Failed(
            "disk_full",
            "the trainer's disk is full, so that it could not even report the failure: free some "
            "space and submit the run again" + _last_output(stderr_tail),
        )
    if hung:
        return Lost(f"the trainer reported nothing for {hung_s:.0f} s and was killed")
    if status < 0:
        return _killed(-status, asked_to_stop, oom_killed, stderr_tail)
    if asked_to_stop:
        return Stopped()
    if status == EXIT_STOPPED:
        return Lost("the trainer received SIGTERM or SIGINT from another process")
    if status == EXIT_RANK_LOST:
        return Lost("one of the run's processes stopped responding" + _last_output(stderr_tail))
    what = f"the trainer exited with status {status}"
    if status == EXIT_USAGE:
        return Failed("config", what + _last_output(stderr_tail))
    return _crashed(what, stderr_tail)


def _killed(number: int, asked_to_stop: bool, oom_killed: bool, stderr_tail: str) -> Outcome:
    if number == signal.SIGKILL and oom_killed:
        return Failed(
            "oom_host",
            f"the machine ran out of memory and its kernel killed the trainer: {MEMORY_ADVICE}",
        )
    if asked_to_stop:
        return Stopped()
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number in _FROM_OUTSIDE:
        return Lost(f"the trainer was killed from outside ({name})")
    return _crashed(f"the trainer crashed ({name})", stderr_tail)


def _crashed(what: str, stderr_tail: str) -> Failed | Lost:
    """Libraries in C++ and Rust abort the process, after printing why."""
    if says_no_device_memory(stderr_tail):
        advice = f"the device has no memory left: {MEMORY_ADVICE}. Details: "
        return Failed("oom_device", advice + what + _last_output(stderr_tail))
    # Warnings at the start may be about GPUs that the run does not use.
    if says_device_lost("\n".join(x for x in stderr_tail.splitlines() if "Warning" not in x)):
        return Lost(what + _last_output(stderr_tail), "device_lost")
    if says_rank_lost(stderr_tail):
        return Lost(what + _last_output(stderr_tail))
    if says_no_memory(stderr_tail):
        advice = f"the machine has no memory left: {MEMORY_ADVICE}. Details: "
        return Failed("oom_host", advice + what + _last_output(stderr_tail))
    return Failed("internal", what + _last_output(stderr_tail))


def _last_output(stderr_tail: str) -> str:
    return f". Last output:\n{stderr_tail}" if stderr_tail else ""
