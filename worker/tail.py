"""Reads a trainer's files as they grow: whole lines only, in bounded pieces; writes nothing."""

from dataclasses import dataclass, replace
from pathlib import Path

from app.runs.ingest import Position
from kdcore.events import BadEvent, Event, Log, parse_event
from worker.workspace import Workspace

MAX_LINE_BYTES = 1 << 20
MAX_LINES = 1000
MAX_DUMP_BYTES = 1 << 16
MAX_STDERR_BYTES = 1 << 20
"""More of an attempt's stderr does not become log lines; the file keeps it."""


@dataclass(frozen=True)
class Lines:
    """Whole lines, and where the next one begins."""

    lines: list[bytes]
    offset: int
    unreadable: int = 0
    """Lines that were skipped: too long, or without an end in a file that is final."""


def read_lines(path: Path, offset: int, *, final: bool) -> Lines:
    """The next whole lines of a file from `offset`; a half line waits, unless `final`."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(MAX_LINE_BYTES)
            end = data.rfind(b"\n") + 1
            if end:
                lines = data[:end].split(b"\n", MAX_LINES)
                rest = lines.pop()
                return Lines(lines, offset + end - len(rest))
            if len(data) < MAX_LINE_BYTES:
                return Lines([], offset + len(data), 1) if data and final else Lines([], offset)
            # Skipped without being held in memory.
            passed = len(data)
            while data := file.read(MAX_LINE_BYTES):
                newline = data.find(b"\n")
                if newline >= 0:
                    return Lines([], offset + passed + newline + 1, 1)
                passed += len(data)
            return Lines([], offset + passed, 1) if final else Lines([], offset)
    except FileNotFoundError:
        return Lines([], offset)


@dataclass(frozen=True)
class Batch:
    """What a trainer wrote between two positions."""

    events: list[Event]
    before: Position
    after: Position

    @property
    def empty(self) -> bool:
        return self.before == self.after


@dataclass
class Tail:
    """The files of one attempt, read from a position on."""

    workspace: Workspace
    position: Position

    def read(self, *, final: bool = False) -> Batch:
        """The next batch; does not advance: set `position` once the batch is stored.

        `final` means that the files no longer grow, so that a half line is not waited for.
        """
        events = read_lines(self.workspace.events, self.position.events, final=final)
        stderr = read_lines(self.workspace.stderr, self.position.stderr, final=final)
        found = [event for line in events.lines if (event := _event(line)) is not None]
        if events.unreadable:
            found.append(_warning("a line of the trainer's events was cut or too long"))
        found += self._stderr_lines(stderr)
        after = replace(self.position, events=events.offset, stderr=stderr.offset)
        return Batch(found, self.position, after)

    def _stderr_lines(self, stderr: Lines) -> list[Log]:
        found = []
        for line in stderr.lines:
            # Of a progress bar that redraws itself, only its last state.
            text = line.decode("utf-8", "replace").rstrip("\r").rsplit("\r", 1)[-1].strip()
            if text:
                found.append(_warning(text))
        if self.position.stderr >= MAX_STDERR_BYTES:
            return []
        if stderr.offset >= MAX_STDERR_BYTES:
            found.append(_warning("too much output on stderr: the rest is omitted"))
        return found


def last_lines(path: Path, lines: int = 20, size_bytes: int = 4000) -> str:
    """The end of a text file, for people to read; empty if there is none.

    If Python's crash dump begins in it, the lines around that: a library's message before the dump
    is more useful than the stacks of all threads.
    """
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - MAX_DUMP_BYTES))
            found = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    for number, line in enumerate(found):
        if line.startswith("Fatal Python error: "):
            found = found[: number + lines // 2]
            break
    return "\n".join(found[-lines:])[-size_bytes:].strip()


def _event(line: bytes) -> Event | None:
    try:
        return parse_event(line)
    except BadEvent as error:
        return _warning(str(error))


def _warning(message: str) -> Log:
    return Log(level="warning", message=message)
