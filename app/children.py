"""Child processes that are started, restarted and always ended; knows nothing of what they do."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from app.guardian import alive, stop_groups

QUICK_DEATH_S = 30.0
"""A child that leaves sooner than this after its start was not well."""
QUICK_DEATHS_ALLOWED = 3
STOP_GRACE_S = 15.0
"""Long enough for a trainer to save a checkpoint."""
LOG_TAIL_CHARS = 1500
MAX_LOG_BYTES = 20 * 1024**2


class ChildFailed(Exception):
    """A child keeps leaving; the message has the end of its log."""


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
    """Starts children, starts those anew that fall over, and leaves none behind.

    The guardian process ends them even when this one is killed without a chance to do it.
    """

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._guardian = subprocess.Popen(
            python_module("app.guardian"),
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
            bufsize=1,
        )

    def start(self, child: Child) -> None:
        """Starts a child and remembers it."""
        self._children.append(child)
        self._launch(child)

    def check(self) -> None:
        """Starts anew whoever left; call it every second or so. Raises ChildFailed."""
        for child in self._children:
            if child.process is None:
                if child.restart_at_s is not None and time.monotonic() >= child.restart_at_s:
                    self._launch(child)
            elif child.process.poll() is not None:
                self._note_death(child)

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

    def _launch(self, child: Child) -> None:
        child.log_file.parent.mkdir(parents=True, exist_ok=True)
        if child.log_file.exists() and child.log_file.stat().st_size > MAX_LOG_BYTES:
            child.log_file.replace(child.log_file.with_suffix(".old.log"))
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
        assert child.process.stdin is not None
        # A child that has left already is for `check` to find.
        with suppress(BrokenPipeError), child.process.stdin as stdin:
            stdin.write(child.stdin_text.encode())

    def _note_death(self, child: Child) -> None:
        assert child.process is not None
        exit_code = child.process.returncode
        self._forget(child)
        well = time.monotonic() - child.started_s > QUICK_DEATH_S
        child.quick_deaths = 0 if well else child.quick_deaths + 1
        if child.quick_deaths > QUICK_DEATHS_ALLOWED:
            raise ChildFailed(
                f"the {child.name} keeps leaving (exit code {exit_code}); the end of "
                f"{child.log_file}:\n{child.log_tail()}"
            )
        child.restart_at_s = time.monotonic() + 2.0**child.quick_deaths - 1

    def _forget(self, child: Child) -> None:
        assert child.process is not None
        self._tell_guardian("-", child.process.pid)
        child.process = None

    def _tell_guardian(self, sign: str, pid: int) -> None:
        assert self._guardian.stdin is not None
        # If somebody killed the guardian, the children are still ended by `stop`.
        with suppress(BrokenPipeError):
            self._guardian.stdin.write(f"{sign}{pid}\n")


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this very Python.

    -P: not from the current folder, where a file may have the name of any module.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def inherited_environment(**changes: str) -> dict[str, str]:
    """This process's environment with some variables set."""
    return {**os.environ, **changes}
