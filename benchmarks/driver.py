"""Starts contestants and asks them for updates; imports no torch, so that it takes no memory.

A contestant that the kernel killed for lack of memory is reported as such, with the most memory
that it was seen to hold.
"""

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.shapes import BUILD, ROOT

SITE = BUILD / "site"
"""Where `make bench` puts what only the reference needs."""
_POLL_S = 0.2


class ContestantDied(Exception):
    """A contestant ended before it was asked to."""

    def __init__(self, reason: str, peak_bytes: int) -> None:
        super().__init__(reason)
        self.reason, self.peak_bytes = reason, peak_bytes


@dataclass(frozen=True)
class Where:
    """What all contestants of a benchmark share."""

    shape: str
    device: str
    work: Path


def environment(extra: dict[str, str] | None = None, *, reference: bool) -> dict[str, str]:
    """The variables of a contestant: those of this process, and the reference's extra package."""
    own = {**os.environ, "HF_HUB_OFFLINE": "1", **(extra or {})}
    if reference:
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH")]))
    return own


def run_module(module: str, *arguments: str, reference: bool = False) -> dict[str, Any]:
    """Run `python -m module` to its end; the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment(reference=reference),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ContestantDied(f"{module}: {_reason(done.returncode, done.stderr)}", 0)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def peak_rss_of(pid: int) -> int:
    """VmHWM of a living process in bytes; 0 if it cannot be read."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0][1]) * 1024 if lines else 0


def _oom_kills() -> int:
    """How often the kernel killed a process for memory since the machine started."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


_OOM_KILLS_BEFORE = _oom_kills()


def _reason(status: int, stderr: str) -> str:
    tail = stderr.strip().splitlines()[-1:] or ["no message"]
    lacking = ("can't allocate memory", "out of memory", "MemoryError")
    if status == -9:
        oom = _oom_kills() > _OOM_KILLS_BEFORE
        return "killed by the kernel for lack of memory" if oom else "killed from outside"
    if any(words in stderr for words in lacking):
        return f"out of memory: {tail[0]}"
    return f"ended with status {status}: {tail[0]}"


@dataclass
class Contestant:
    """A living contestant."""

    name: str
    goal: str
    where: Where
    variables: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._log = self.where.work / f"{self.name}-{self.goal}-{time.monotonic_ns()}.log"
        with open(self._log, "wb") as stderr:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.contestant"),
                    *("--name", self.name, "--goal", self.goal, "--shape", self.where.shape),
                    *("--work", str(self.where.work), "--device", self.where.device),
                    *self.arguments,
                ],
                cwd=ROOT,
                env=environment(self.variables, reference=self.name.startswith("reference")),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self._buffer = b""
        self._ready = False
        self._peak_bytes = 0
        self._prefer_me_to_others()

    def _prefer_me_to_others(self) -> None:
        """If the kernel must kill for memory, this one, and nothing else on the machine."""
        try:
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text("1000", encoding="utf-8")
        except OSError:
            return

    def wait_ready(self) -> None:
        """Wait until its models are loaded; at once if they already are."""
        if not self._ready:
            self._ready = self._answer() == {"ready": True}

    def update(self, step: int, *, count: bool = False) -> dict[str, Any]:
        """Ask for one update; the fields of `benchmarks.channel.Reply`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"step": step, "count": count}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            self._peak_bytes = max(self._peak_bytes, peak_rss_of(self._process.pid))
            if not select.select([pipe], [], [], _POLL_S)[0]:
                continue
            part = os.read(pipe, 65_536)
            if not part:
                status = self._process.wait()
                stderr = self._log.read_text(encoding="utf-8", errors="replace")
                # Its GPU memory was never sampled.
                seen = self._peak_bytes if self.where.device == "cpu" else 0
                raise ContestantDied(_reason(status, stderr), seen)
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it, and wait until its memory is free."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
