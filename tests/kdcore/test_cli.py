"""The trainer as a process: how it answers signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcore.cli import EXIT_STOPPED, _read_config, _StoppedEarly, _StopRequest
from kdcore.config import FileCorpus, TeacherConfig


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_waited_for_only_once_there_is_something_to_save(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = _StopRequest(alone=True)
        with pytest.raises(_StoppedEarly):
            os.kill(os.getpid(), number)
        for alone in (True, False):
            stop = _StopRequest(alone=alone)
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop(), "a second SIGTERM changes nothing"
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_trainer_that_still_loads_its_libraries_leaves_at_once(
    corpus: FileCorpus, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(TeacherConfig(corpus=corpus).model_dump_json())
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "kdcore", "run", "--config", str(tmp_path / "config.json"),
         "--out", str(out), "--device", "cpu", "--quiet"],
    )  # fmt: skip
    while not _answers(process.pid, signal.SIGTERM):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == EXIT_STOPPED
    lines = (out / "events.jsonl").read_text().splitlines()
    assert {json.loads(line)["type"] for line in lines} <= {"log"}
    assert not (out / "checkpoints").exists()


def _answers(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for this signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_config_saved_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"kind": "teacher", "seed": 7}', encoding="utf-8-sig")
    assert _read_config(config).seed == 7
