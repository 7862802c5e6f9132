"""Reading files that grow, tear and grow wild."""

import json
from pathlib import Path

import pytest

from app.runs.ingest import Position
from kdcore.events import Event, Log, Metrics
from worker.tail import MAX_LINE_BYTES, MAX_LINES, Tail, last_lines, read_lines
from worker.workspace import Workspace


@pytest.fixture
def tail(tmp_path: Path) -> Tail:
    workspace = Workspace(tmp_path, 1)
    workspace.folder.mkdir()
    return Tail(workspace, Position(1))


def metrics(step: int) -> bytes:
    event = {"type": "metrics", "step": step, "values": {"loss": 1.0}}
    return json.dumps(event).encode() + b"\n"


def read_all(tail: Tail, *, final: bool = False) -> list[Event]:
    events: list[Event] = []
    while not (batch := tail.read(final=final)).empty:
        events += batch.events
        tail.position = batch.after
    return events


def steps(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, Metrics)]


def test_files_that_do_not_exist_yet_are_empty(tail: Tail) -> None:
    assert tail.read().empty


def test_half_a_line_waits_for_its_other_half(tail: Tail) -> None:
    whole, half = metrics(1), metrics(2)
    tail.workspace.events.write_bytes(whole + half[:10])
    assert steps(read_all(tail)) == [1]
    assert tail.position.events == len(whole)
    tail.workspace.events.write_bytes(whole + half)
    assert steps(read_all(tail)) == [2]


def test_half_a_line_at_the_end_is_reported(tail: Tail) -> None:
    tail.workspace.events.write_bytes(metrics(1) + metrics(2)[:10])
    first, second = read_all(tail, final=True)
    assert first == Metrics(step=1, values={"loss": 1.0})
    assert isinstance(second, Log)
    assert second.level == "warning"


def test_a_batch_that_is_not_stored_is_read_again(tail: Tail) -> None:
    tail.workspace.events.write_bytes(metrics(1))
    assert tail.read() == tail.read()


def test_batches_are_bounded_and_complete(tail: Tail) -> None:
    count = 2 * MAX_LINES + 7
    tail.workspace.events.write_bytes(b"".join(metrics(step) for step in range(count)))
    batch = tail.read()
    assert len(batch.events) == MAX_LINES
    assert steps(read_all(tail)) == list(range(count))


@pytest.mark.parametrize("line", [b"{", b'{"type": "checkpoint"}'])
def test_unreadable_lines_become_a_warning(tail: Tail, line: bytes) -> None:
    tail.workspace.events.write_bytes(line + b"\n" + metrics(1))
    warning, last = read_all(tail)
    assert isinstance(warning, Log)
    assert warning.level == "warning"
    assert steps([last]) == [1]


def test_an_endless_line_is_passed_over_in_bounded_memory(tail: Tail) -> None:
    with open(tail.workspace.events, "wb") as file:
        file.write(metrics(1))
        for _ in range(3):
            file.write(b"x" * MAX_LINE_BYTES)
    assert steps(read_all(tail)) == [1]
    with open(tail.workspace.events, "ab") as file:
        file.write(b"\n" + metrics(2))
    warning, last = read_all(tail)
    assert isinstance(warning, Log)
    assert warning.level == "warning"
    assert last == Metrics(step=2, values={"loss": 1.0})


def test_stderr_becomes_warnings_and_progress_bars_their_last_state(tail: Tail) -> None:
    tail.workspace.stderr.write_bytes(b" 10%\r 50%\r100%\n\nTrouble\n")
    assert [event.message for event in read_all(tail) if isinstance(event, Log)] == [
        "100%",
        "Trouble",
    ]


def test_a_flood_of_stderr_is_cut_with_one_notice(tail: Tail) -> None:
    tail.workspace.stderr.write_bytes(b"the same again and again\n" * 200_000)
    events = read_all(tail)
    assert len(events) < 50_000
    assert [e for e in events if isinstance(e, Log) and "very much" in e.message] == [events[-1]]
    assert tail.position.stderr == tail.workspace.stderr.stat().st_size


def test_offsets_count_bytes_not_characters(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes("é\n".encode() * 2)
    lines = read_lines(path, 3, final=False)
    assert (lines.lines, lines.offset) == (["é".encode()], 6)


def test_of_a_crash_what_came_before_the_dump_is_shown(tmp_path: Path) -> None:
    stacks = "".join(f'  File "x.py", line {n} in f\n' for n in range(200))
    path = tmp_path / "stderr.log"
    path.write_text(
        "early\n" * 50
        + "memory allocation of 32 bytes failed\nFatal Python error: Aborted\n\n"
        + stacks
        + "Extension modules: "
        + "numpy, " * 500
    )
    words = last_lines(path)
    assert "memory allocation of 32 bytes failed" in words
    assert "Fatal Python error: Aborted" in words
    assert "Extension modules" not in words
    assert len(words.splitlines()) <= 20
