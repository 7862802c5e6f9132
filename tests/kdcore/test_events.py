"""Events on disk: whole lines, whatever became of the disk or of the process before."""

import json
from pathlib import Path

import pytest

from faults.small_disk import MIB, small_disk
from kdcore.errors import DiskFull
from kdcore.events import JsonlSink


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
    sink.emit("result", summary={})
    sink.close()
    assert events(path) == ["started", "unreadable", "result"]


def test_a_line_that_a_full_disk_cut_swallows_no_later_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", MIB) as disk:
        path = disk.folder / "events.jsonl"
        sink = JsonlSink(path)
        sink.emit("started")
        disk.fill()
        with pytest.raises(DiskFull, match="bytes were needed, 0 bytes are free"):
            sink.emit("log", message="x" * 10_000)
        disk.clear()
        sink.emit("failed", code="disk_full")
        sink.close()
        assert events(path) == ["started", "unreadable", "failed"]
