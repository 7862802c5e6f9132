"""One trainer process: started in its own session, watched, stopped; knows no database.

A process that has loaded the libraries stands by for the next run, since loading takes seconds.
The trainer holds the reading end of a pipe whose writing end only this process has: when this
process ends, for whatever reason, the pipe is closed and the trainer exits.
"""

import json
import logging
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from app.local.processes import python_module
from worker.outcome import OomWatch, oom_counter
from worker.workspace import Workspace

logger = logging.getLogger(__name__)

_KDCORE = python_module("kdcore")


def trainer_command(workspace: Workspace, cache_dir: Path, device: str) -> list[str]:
    """The command that carries out the run whose config is in the workspace."""
    return [
        *(*_KDCORE, "run"),
        *("--config", str(workspace.config)),
        *("--inputs", str(workspace.inputs_file)),
        *("--out", str(workspace.folder)),
        *("--events", str(workspace.events)),
        *("--cache", str(cache_dir.resolve())),
        *("--device", device),
        "--quiet",
        "--exit-with-parent",
    ]


class Standby:
    """Keeps one process ready to become the next trainer."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Start a process if none is ready."""
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            self._process = _start([*_KDCORE, "standby"], subprocess.DEVNULL)

    def take(self, command: list[str], output: Path) -> "subprocess.Popen[bytes] | None":
        """The process that stood by, now carrying out `command`; None if there is none."""
        process = self._process
        if process is None or command[: len(_KDCORE)] != _KDCORE:
            return None
        request = {"arguments": command[len(_KDCORE) :], "output": str(output)}
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:  # it has exited
            self.close()
            return None
        self._process = None
        return process

    def close(self) -> None:
        """End the standby process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            with suppress(OSError):  # what could not be written to it
                assert process.stdin is not None
                process.stdin.close()


def _start(command: list[str], output: IO[bytes] | int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


class Trainer:
    """A running trainer; the process that stands by becomes it, if there is one."""

    def __init__(
        self,
        command: list[str],
        workspace: Workspace,
        stop_grace_s: float,
        standby: Standby | None = None,
    ) -> None:
        self._grace_s = stop_grace_s
        self._kill_at_s: float | None = None
        ready = standby.take(command, workspace.stderr.resolve()) if standby else None
        if ready is None:
            with open(workspace.stderr, "ab") as stderr:
                ready = _start(command, stderr)
        self._process = ready
        self.pid = self._process.pid
        self._oom = OomWatch(oom_counter(Path(f"/proc/{self.pid}/cgroup")))
        _offer_to_oom_killer(self.pid)

    @property
    def asked_to_stop(self) -> bool:
        """Whether `stop` was called."""
        return self._kill_at_s is not None

    def stop(self) -> None:
        """Ask the trainer to save a checkpoint and exit; may be called repeatedly."""
        if self._kill_at_s is None:
            self._kill_at_s = time.monotonic() + self._grace_s
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the trainer and all that it started."""
        self._signal_group(signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs.

        A trainer that was asked to stop is killed here when its time is up.
        """
        if self._kill_at_s is not None and time.monotonic() > self._kill_at_s:
            self.kill()
        if self._process.returncode is None and self._has_ended():
            # Until the process is reaped, its group id cannot be reused.
            self._signal_group(signal.SIGKILL)
            self._process.wait()
            self._close_pipe()
        return self._process.returncode

    def end(self) -> None:
        """Make sure that no process of the trainer is left."""
        if self._process.returncode is None:
            self.kill()
            self._process.wait()
        self._close_pipe()

    def oom_killed(self) -> bool:
        """Whether the kernel killed a process for lack of memory while the trainer ran."""
        return self._oom.struck()

    def _has_ended(self) -> bool:
        state = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return state is not None

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    def _signal_group(self, number: int) -> None:
        if self._process.returncode is not None:
            return
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def _close_pipe(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


def _offer_to_oom_killer(pid: int) -> None:
    """Make the OOM killer choose the trainer rather than its supervisor, which can report it."""
    try:
        Path(f"/proc/{pid}/oom_score_adj").write_text("500")
    except OSError as error:
        logger.debug("oom_score_adj not set: %s", error)
