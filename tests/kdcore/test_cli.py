"""The trainer as a process: how it answers signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcore.cli import _read_config
from kdcore.config import (
    Evaluation,
    FileCorpus,
    FolderCheckpoint,
    PruneConfig,
    Schedule,
    ScratchModel,
    TeacherConfig,
    WordPieceTokenizer,
)
from kdcore.events import ListSink
from kdcore.process import EXIT_STOPPED, StoppedEarly, StopRequest
from kdcore.run import execute


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_waited_for_only_once_there_is_something_to_save(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = StopRequest(alone=True)
        with pytest.raises(StoppedEarly):
            os.kill(os.getpid(), number)
        for alone in (True, False):
            stop = StopRequest(alone=alone)
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop(), "a second SIGTERM changes nothing"
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.mark.integration
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


@pytest.mark.integration
@pytest.mark.parametrize("by_standby", [False, True])
def test_no_librarys_progress_bar_is_drawn(
    corpus: FileCorpus, cache_dir: Path, tmp_path: Path, by_standby: bool
) -> None:
    """Each redrawing of one would be a line of the run's log."""
    tiny = TeacherConfig(
        model=ScratchModel(layers=2, hidden_size=16, heads=2, intermediate_size=32),
        corpus=corpus,
        tokenizer=WordPieceTokenizer(vocab_size=300),
        seq_len=32,
        schedule=Schedule(batch_size=4, max_steps=1),
        evaluation=Evaluation(max_sequences=4),
    )
    execute(tiny, tmp_path, ListSink(), cache_dir=cache_dir, device="cpu")
    config = PruneConfig(teacher=FolderCheckpoint(path=str(tmp_path / "model")))
    (tmp_path / "prune.json").write_text(config.model_dump_json())
    arguments = ["run", "--config", str(tmp_path / "prune.json"), "--out", str(tmp_path / "out"),
                 "--device", "cpu", "--quiet"]  # fmt: skip
    said = tmp_path / "stderr.log"
    request = json.dumps({"arguments": arguments, "output": str(said)}) + "\n"
    with open(said, "wb") as stderr, open(tmp_path / "request", "w+b") as stdin:
        stdin.write(request.encode())
        stdin.seek(0)
        subprocess.run(
            [sys.executable, "-m", "kdcore", *(["standby"] if by_standby else arguments)],
            stdin=stdin,
            stderr=stderr,
            env={k: v for k, v in os.environ.items() if not k.endswith("_PROGRESS_BARS")},
            timeout=200,
            check=True,
        )
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert "%|" not in said.read_text()


def test_a_config_saved_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"kind": "teacher", "seed": 7}', encoding="utf-8-sig")
    assert _read_config(config).seed == 7
