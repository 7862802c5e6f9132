"""Child processes that are started, restarted and always ended; knows nothing of what they do."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.local.reaper import alive, stop_groups
from app.local.state import write_private

QUICK_DEATH_S = 30.0
"""A child that leaves sooner than this after its start was not well."""
QUICK_DEATHS_ALLOWED = 3
"""While the installation starts; later a child is restarted however often it leaves."""
RESTART_WITHIN_S = 60.0
GUARDIAN_EVERY_S = 5.0
SAME_BIRTH_S = 2.0
"""The same process's start differs by less, however often it is asked for."""
STOP_GRACE_S = 15.0
"""Long enough for a trainer to save a checkpoint."""
LOG_TAIL_CHARS = 1500
MAX_LOG_BYTES = 20 * 1024**2
"""Of each child's log; what was before is kept once more, as `.old.log`."""


class ChildFailed(Exception):
    """A child does not start; the message has the end of its log."""


@dataclass
class Child:
    """One process, leader of a group of its own."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log_file: Path
    stdin_text: str = ""
    """Written to the child's stdin at every start: for what may be in no process list."""
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    quick_deaths: int = 0
    restart_at_s: float | None = field(default=None)

    def log_tail(self) -> str:
        """The last lines that the child wrote."""
        if not self.log_file.exists():
            return ""
        return self.log_file.read_text(errors="replace")[-LOG_TAIL_CHARS:].strip()


class Children:
    """Starts children, restarts those that leave, and leaves none behind.

    The guardian process ends them even when this one is killed without a chance to do it. If both
    are killed, `end_leftovers` ends them at the next start; it reads the file `record`. `say` is
    called with a message for everything that is restarted.
    """

    def __init__(self, record: Path, say: Callable[[str], None]) -> None:
        self._record, self._say = record, say
        self._children: list[Child] = []
        self._start_guardian()

    def start(self, child: Child) -> None:
        """Starts a child and remembers it."""
        self._children.append(child)
        self._launch(child)

    def check(self, *, starting: bool = False) -> None:
        """Restarts what has left, later each time it leaves quickly, and keeps the logs short.

        Call it every second or so. Raises ChildFailed for a child that keeps leaving, but only
        while the installation is `starting`: afterwards the others go on without it.
        """
        self._check_guardian()
        for child in self._children:
            shorten(child.log_file)
            if child.process is None:
                if child.restart_at_s is not None and time.monotonic() >= child.restart_at_s:
                    self._restart(child)
            elif child.process.poll() is not None:
                self._note_death(child, starting)

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Ends all children, those started last first, and then the guardian."""
        for child in reversed(self._children):
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + grace_s
        for child in reversed(self._children):
            if child.process is None:
                continue
            with suppress(subprocess.TimeoutExpired):
                child.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            # Whatever of its group has outlived the leader, or the leader itself.
            if alive(child.process.pid):
                stop_groups([child.process.pid], grace_s=0.5)
            child.process.wait()
            self._forget(child)
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()
        self._guardian.wait()
        self._record.unlink(missing_ok=True)

    def _start_guardian(self) -> None:
        self._guardian = subprocess.Popen(
            python_module("app.local.reaper"),
            stdin=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,  # what could not be written must not come up again when it is closed
        )
        self._guardian_started_s = time.monotonic()

    def _check_guardian(self) -> None:
        before, code = self._guardian, self._guardian.poll()
        if code is None or time.monotonic() - self._guardian_started_s < GUARDIAN_EVERY_S:
            return
        try:
            self._start_guardian()
        except OSError as error:
            self._guardian_started_s = time.monotonic()
            self._say(f"guardian exited with code {code} and cannot be restarted ({error})")
            return
        assert before.stdin is not None
        before.stdin.close()
        for child in self._children:
            if child.process is not None:
                self._tell_guardian("+", child.process.pid)
        self._say(f"guardian exited with code {code}; restarted (process {self._guardian.pid})")

    def _restart(self, child: Child) -> None:
        try:
            self._launch(child)
        except OSError as error:
            # No memory or no process is left: the others go on.
            self._put_off(child, f"{child.name} cannot be started ({error})")
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
        self._tell_guardian("+", child.process.pid)
        self._write_record()
        assert child.process.stdin is not None
        # A child that has left already is for `check` to find.
        with suppress(BrokenPipeError), child.process.stdin as stdin:
            stdin.write(child.stdin_text.encode())

    def _note_death(self, child: Child, starting: bool) -> None:
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
        # One that was killed had no time to say why.
        last = child.log_tail().rpartition("\n")[2] if exit_code > 0 else ""
        why = f" (last log line: {last})" if last else ""
        self._put_off(child, f"{child.name} exited with code {exit_code}{why}")

    def _put_off(self, child: Child, what: str) -> None:
        wait_s = min(2.0 ** min(child.quick_deaths, 10) - 1, RESTART_WITHIN_S)
        child.quick_deaths += 1
        child.restart_at_s = time.monotonic() + wait_s
        attempt = f"attempt {child.quick_deaths}"
        self._say(f"{what}; restarting in {wait_s:.0f} s ({attempt}); its log: {child.log_file}")

    def _forget(self, child: Child) -> None:
        assert child.process is not None
        self._tell_guardian("-", child.process.pid)
        child.process = None

    def _tell_guardian(self, sign: str, pid: int) -> None:
        assert self._guardian.stdin is not None
        # A guardian that was killed is told all of them when it is restarted.
        with suppress(BrokenPipeError):
            self._guardian.stdin.write(f"{sign}{pid}\n".encode())

    def _write_record(self) -> None:
        alive_now = [
            {"name": child.name, "pid": child.process.pid, "born_s": born_s}
            for child in self._children
            if child.process is not None and (born_s := _born_s(child.process.pid)) is not None
        ]
        with suppress(OSError):  # on a full disk the installation goes on without it
            write_private(self._record, json.dumps(alive_now) + "\n")


def end_leftovers(record: Path, say: Callable[[str], None]) -> None:
    """End the children of a process that was killed together with its guardian.

    Call it only when no other process can be their parent.
    """
    try:
        listed = json.loads(record.read_text())
        left = {
            each["pid"]: each["name"]
            for each in listed
            # The pid may be another process's by now.
            if abs((_born_s(each["pid"]) or 0.0) - each["born_s"]) < SAME_BIRTH_S
        }
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"{record} is unreadable, so processes of an earlier start may still run: {error}")
        return
    if left:
        names = ", ".join(f"{name} (process {pid})" for pid, name in left.items())
        say(f"ending what an earlier start left running: {names}")
        stop_groups(left)
        psutil.wait_procs([each for each in psutil.process_iter() if each.pid in left], 5)
    record.unlink(missing_ok=True)


def _born_s(pid: int) -> float | None:
    """When the process was started; None if there is none, or only what remains of one."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def shorten(log: Path) -> None:
    """Empty a log that has grown too long, its content kept aside.

    Not renamed: the child goes on appending to the file that it has open.
    """
    with suppress(OSError):
        if log.stat().st_size > MAX_LOG_BYTES:
            with suppress(OSError):  # no room for a copy is one more reason to empty it
                shutil.copyfile(log, log.with_suffix(".old.log"))
            os.truncate(log, 0)


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this very Python.

    -P: not from the current folder, where a file may have the name of any module.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def inherited_environment(**changes: str) -> dict[str, str]:
    """This process's environment with some variables set."""
    return {**os.environ, **changes}
