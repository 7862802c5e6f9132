"""Starts, restarts and stops child processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.local.reaper import alive, stop_groups
from app.local.state import write_private

QUICK_DEATH_S = 30.0
"""A child that exits sooner than this after its start counts as failing."""
QUICK_DEATHS_ALLOWED = 3
"""While the installation starts; later a child is restarted any number of times."""
RESTART_WITHIN_S = 60.0
REAPER_RESTART_S = 5.0
SAME_BIRTH_S = 2.0
"""Repeated readings of the start time of one process differ by less."""
STOP_GRACE_S = 15.0
"""Enough for a trainer to save a checkpoint."""
LOG_TAIL_CHARS = 1500
MAX_LOG_BYTES = 20 * 1024**2
"""Per log; earlier content is kept once, as `.old.log`."""


class ChildFailed(Exception):
    """A child does not start; the message has the end of its log."""


@dataclass
class Child:
    """A process in its own process group."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log_file: Path
    stdin_text: str = ""
    """Written to stdin at every start, for what must not be in a process list."""
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    quick_deaths: int = 0
    restart_at_s: float | None = None

    def log_tail(self) -> str:
        """The end of the log."""
        if not self.log_file.exists():
            return ""
        return self.log_file.read_text(errors="replace")[-LOG_TAIL_CHARS:].strip()


class Children:
    """Starts children, restarts those that exit, and leaves none behind.

    The reaper process stops them even when this process is killed. If both are killed,
    `end_leftovers` stops them at the next start; it reads the file `record`. `say` is called with
    a message for every restart.
    """

    def __init__(self, record: Path, say: Callable[[str], None]) -> None:
        self._record, self._say = record, say
        self._children: list[Child] = []
        self._start_reaper()

    def start(self, child: Child) -> None:
        """Start a child."""
        self._children.append(child)
        self._launch(child)

    def check(self, *, starting: bool = False) -> None:
        """Restart exited children, with growing delays, and limit the size of logs.

        Call it about every second. While the installation is `starting`, raises ChildFailed for a
        child that keeps exiting; afterwards the others continue without it.
        """
        self._check_reaper()
        for child in self._children:
            shorten(child.log_file)
            if child.process is None:
                if child.restart_at_s is not None and time.monotonic() >= child.restart_at_s:
                    self._restart(child)
            elif child.process.poll() is not None:
                self._handle_exit(child, starting)

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Stop all children, last started first, and then the reaper."""
        for child in reversed(self._children):
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + grace_s
        for child in reversed(self._children):
            if child.process is None:
                continue
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            # The rest of its group, or the child itself.
            if alive(child.process.pid):
                stop_groups([child.process.pid], grace_s=0.5)
            child.process.wait()
            self._forget(child)
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        self._reaper.wait()
        self._record.unlink(missing_ok=True)

    def _start_reaper(self) -> None:
        self._reaper = subprocess.Popen(
            python_module("app.local.reaper"),
            stdin=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,  # failed writes must not be retried at closing
        )
        self._reaper_started_s = time.monotonic()

    def _check_reaper(self) -> None:
        before, code = self._reaper, self._reaper.poll()
        if code is None or time.monotonic() - self._reaper_started_s < REAPER_RESTART_S:
            return
        try:
            self._start_reaper()
        except OSError as error:
            self._reaper_started_s = time.monotonic()
            self._say(f"reaper exited with code {code} and cannot be restarted ({error})")
            return
        assert before.stdin is not None
        before.stdin.close()
        for child in self._children:
            if child.process is not None:
                self._notify_reaper("+", child.process.pid)
        self._say(f"reaper exited with code {code}; restarted (process {self._reaper.pid})")

    def _restart(self, child: Child) -> None:
        try:
            self._launch(child)
        except OSError as error:
            # Out of memory or processes: the others continue.
            self._schedule_restart(child, f"{child.name} cannot be started ({error})")
        else:
            assert child.process is not None
            self._say(f"{child.name} restarted (process {child.process.pid})")

    def _launch(self, child: Child) -> None:
        child.log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(child.log_file, "ab") as log:
            child.process = subprocess.Popen(
                child.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child.environment,
                start_new_session=True,
            )
        child.started_s = time.monotonic()
        child.restart_at_s = None
        self._notify_reaper("+", child.process.pid)
        self._write_record()
        assert child.process.stdin is not None
        # `check` finds a child that has exited already.
        with suppress(BrokenPipeError), child.process.stdin as stdin:
            stdin.write(child.stdin_text.encode())

    def _handle_exit(self, child: Child, starting: bool) -> None:
        assert child.process is not None
        exit_code = child.process.returncode
        self._forget(child)
        if time.monotonic() - child.started_s > QUICK_DEATH_S:
            child.quick_deaths = 0
        if starting and child.quick_deaths >= QUICK_DEATHS_ALLOWED:
            raise ChildFailed(
                f"the {child.name} does not start (exit code {exit_code}); the end of "
                f"{child.log_file}:\n{child.log_tail()}"
            )
        # A killed child could not log a reason.
        last = child.log_tail().rpartition("\n")[2] if exit_code > 0 else ""
        why = f" (last log line: {last})" if last else ""
        self._schedule_restart(child, f"{child.name} exited with code {exit_code}{why}")

    def _schedule_restart(self, child: Child, what: str) -> None:
        wait_s = min(2.0 ** min(child.quick_deaths, 10) - 1, RESTART_WITHIN_S)
        child.quick_deaths += 1
        child.restart_at_s = time.monotonic() + wait_s
        attempt = f"attempt {child.quick_deaths}"
        self._say(f"{what}; restarting in {wait_s:.0f} s ({attempt}); its log: {child.log_file}")

    def _forget(self, child: Child) -> None:
        assert child.process is not None
        self._notify_reaper("-", child.process.pid)
        child.process = None

    def _notify_reaper(self, sign: str, pid: int) -> None:
        assert self._reaper.stdin is not None
        # A killed reaper gets all of them when it is restarted.
        with suppress(BrokenPipeError):
            self._reaper.stdin.write(f"{sign}{pid}\n".encode())

    def _write_record(self) -> None:
        alive_now = [
            {"name": child.name, "pid": child.process.pid, "born_s": born_s}
            for child in self._children
            if child.process is not None and (born_s := _born_s(child.process.pid)) is not None
        ]
        with suppress(OSError):  # on a full disk the installation continues without it
            write_private(self._record, json.dumps(alive_now) + "\n")


def end_leftovers(record: Path, say: Callable[[str], None]) -> None:
    """Stop the children of a process that was killed together with its reaper.

    Call it only when no other process can be their parent.
    """
    try:
        listed = json.loads(record.read_text())
        left = {
            each["pid"]: each["name"]
            for each in listed
            # The pid may have been reused.
            if abs((_born_s(each["pid"]) or 0.0) - each["born_s"]) < SAME_BIRTH_S
        }
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"{record} is unreadable; processes of an earlier start may still run: {error}")
        return
    if left:
        names = ", ".join(f"{name} (process {pid})" for pid, name in left.items())
        say(f"stopping processes left by an earlier start: {names}")
        stop_groups(left)
        psutil.wait_procs([each for each in psutil.process_iter() if each.pid in left], 5)
    record.unlink(missing_ok=True)


def _born_s(pid: int) -> float | None:
    """Start time of the process; None if it does not exist or is a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def shorten(log: Path) -> None:
    """Copy and truncate a log that has grown too long.

    Not renamed, since the child continues to append to its open file.
    """
    with suppress(OSError):
        if log.stat().st_size > MAX_LOG_BYTES:
            with suppress(OSError):  # truncate also without room for a copy
                shutil.copyfile(log, log.with_suffix(".old.log"))
            os.truncate(log, 0)


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this Python.

    -P: not from the current folder, where files may shadow modules.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
