"""Events on disk: whole lines, whatever became of the disk or the process before; the parser."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from faults.small_disk import MIB, small_disk
from kdcore.errors import DiskFull
from kdcore.events import (
    MAX_MESSAGE_CHARS,
    BadEvent,
    CheckpointSaved,
    Event,
    JsonlSink,
    Log,
    Metrics,
    Progress,
    RunFailed,
    RunResult,
    RunStarted,
    RunStopped,
    parse_event,
)
from kdcore.shapes import ModelShape
from tests.fixtures.events import read_events

RELEASES = Path(__file__).parents[1] / "fixtures" / "releases"


def events(path: Path) -> list[str]:
    """The types of all lines that are whole."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line)["type"])
        except ValueError:
            found.append("unreadable")
    return found


def test_a_half_line_of_a_killed_process_swallows_no_later_one(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"type": "started"}\n{"type": "metr')
    sink = JsonlSink(path)
    sink.emit(RunResult())
    sink.close()
    assert events(path) == ["started", "unreadable", "result"]


@pytest.mark.integration
def test_a_line_that_a_full_disk_cut_swallows_no_later_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", MIB) as disk:
        path = disk.folder / "events.jsonl"
        sink = JsonlSink(path)
        sink.emit(Log(message="short"))
        disk.fill()
        with pytest.raises(DiskFull, match="bytes were needed, 0 bytes are free"):
            sink.emit(Log(message="x" * 8_000))
        disk.clear()
        sink.emit(RunFailed(code="disk_full"))
        sink.close()
        assert events(path) == ["log", "unreadable", "failed"]


def shape() -> ModelShape:
    return ModelShape("bert", 4, 64, 4, 128, 64, 1000, "fingerprint")


@pytest.mark.parametrize(
    "event",
    [
        RunStarted(config={"kind": "teacher"}, versions={"torch": "x"}, device="cpu"),
        Progress(phase="training", done=1, total=None, unit="steps"),
        Metrics(step=3, values={"loss": 1.5, "lr": None}),
        Log(level="error", message="é"),
        CheckpointSaved(step=3, path="checkpoints/step-00000003"),
        RunResult(summary={"steps": 3, "report": {"copied": ["a"]}}, shape=shape()),
        RunFailed(code="config", message="seq_len: too long", field=["evaluation", "seq_len"]),
        RunStopped(step=3),
    ],
    ids=lambda event: event.type,
)
def test_what_is_written_is_read_back(tmp_path: Path, event: Event) -> None:
    sink = JsonlSink(tmp_path / "events.jsonl")
    sink.emit(event)
    sink.close()
    (read,) = read_events(tmp_path)
    assert read.time_s is not None
    assert read.model_copy(update={"time_s": None}) == event


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not an object"),
        (b'{"type": "metrics", "step": -1, "values": {}}', "a metrics event .*step: .*equal to 0"),
        (b'{"type": "metrics", "step": true, "values": {}}', "step: .*integer"),
        (b'{"type": "metrics", "step": 4611686018427387905, "values": {}}', "step: "),
        (b'{"type": "metrics", "step": 1, "values": {"loss": "high"}}', "values.loss: .*number"),
        (b'{"type": "metrics", "step": 1, "values": {"": 1.0}}', "values"),
        (b'{"type": "metrics", "step": 1, "values": {"' + b"x" * 65 + b'": 1.0}}', "at most 64"),
        (b'{"type": "metrics", "step": 1, "values": [1.0]}', "values: "),
        (b'{"type": "checkpoint"}', "a checkpoint event was skipped: step: Field required"),
        (b'{"type": "progress", "phase": "training", "done": "half"}', "done: "),
        (b'{"type": "progress", "done": 1}', "phase: "),
    ],
)
def test_a_bad_line_is_refused_with_a_reason(line: bytes, reason: str) -> None:
    with pytest.raises(BadEvent, match=reason):
        parse_event(line)


@pytest.mark.parametrize("line", [b"", b" ", b"{}", b'{"type": "from_the_future"}'])
def test_types_of_a_later_version_are_no_events_of_this_one(line: bytes) -> None:
    assert parse_event(line) is None


def test_what_a_later_version_adds_is_ignored() -> None:
    assert parse_event(b'{"type": "stopped", "step": 3, "why": "x"}') == RunStopped(step=3)
    failed = parse_event(b'{"type": "failed", "code": "witchcraft", "message": "x"}')
    assert failed == RunFailed(code="internal", message="x")
    assert parse_event(b'{"type": "log", "level": "shout", "message": "x"}') == Log(message="x")


def test_numbers_that_are_not_finite_are_none() -> None:
    huge = b"1" + b"0" * 400
    line = b'{"type": "metrics", "step": 1, "values": {"a": NaN, "b": -Infinity, "c": %b}}' % huge
    assert parse_event(line) == Metrics(step=1, values={"a": None, "b": None, "c": None})


def test_texts_are_bounded_and_fit_any_database() -> None:
    event = parse_event(b'{"type": "log", "message": "\\u0000\\ud800' + b"x" * 9_000 + b'"}')
    assert isinstance(event, Log)
    assert event.message.startswith("\ufffd?xxx")
    assert len(event.message) == MAX_MESSAGE_CHARS


def test_a_result_of_release_0_1_0_has_its_shape_in_the_summary() -> None:
    summary = {"steps": 3, "shape": asdict(shape())}
    line = json.dumps({"type": "result", "summary": summary, "folder": "model"}).encode()
    assert parse_event(line) == RunResult(summary={"steps": 3}, shape=shape())


@pytest.mark.parametrize("path", sorted(RELEASES.rglob("events.jsonl")), ids=str)
def test_the_events_of_older_releases_are_read(path: Path) -> None:
    assert {type(event) for event in read_events(path.parent)} >= {RunStarted, Metrics, RunStopped}
