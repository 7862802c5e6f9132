"""The real trainer's ties to its supervisor."""

import json
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from kdcore.config import TeacherConfig
from kdcore.inputs import NO_INPUTS
from worker.trainer_process import Standby, Trainer, trainer_command
from worker.workspace import Workspace

pytestmark = pytest.mark.integration


def test_the_trainer_exits_when_its_supervisor_has_died(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, 1)
    workspace.create()
    config = TeacherConfig()
    workspace.write_config(config, NO_INPUTS)
    command = trainer_command(workspace, tmp_path / "cache", "cpu")
    read_end, write_end = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, read_end, 0), (os.POSIX_SPAWN_CLOSE, write_end)],
    )
    os.close(read_end)
    deadline = time.monotonic() + 60
    while not workspace.events.exists():
        assert time.monotonic() < deadline, "the trainer did not start"
        assert os.waitpid(pid, os.WNOHANG)[0] == 0, "the trainer left by itself"
        time.sleep(0.1)
    os.close(write_end)
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        assert time.monotonic() < deadline + 20, "the trainer outlives its supervisor"
        time.sleep(0.1)


def wait_for_end(trainer: Trainer) -> int:
    deadline = time.monotonic() + 90
    while (status := trainer.poll()) is None:
        assert time.monotonic() < deadline, "the trainer did not end"
        time.sleep(0.05)
    return status


def test_the_process_that_stood_by_becomes_the_trainer(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, 1)
    workspace.create()
    workspace.config.write_text(json.dumps({"kind": "teacher", "layer_drop": 2.0}))
    command = trainer_command(workspace, tmp_path / "cache", "cpu")
    standby = Standby()
    standby.prepare()
    assert standby._process is not None
    waiting = standby._process.pid
    standby.prepare()
    assert standby._process.pid == waiting, "one is enough"
    trainer = Trainer(command, workspace, 1.0, standby)
    assert trainer.pid == waiting
    assert wait_for_end(trainer) == 2
    assert "layer_drop: Input should be less than 1" in workspace.stderr.read_text()
    # There is no standby process now: the next one is started, and does the same.
    again = Trainer(command, workspace, 1.0, standby)
    assert again.pid != waiting
    assert wait_for_end(again) == 2


def test_a_dead_standby_process_is_replaced(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, 1)
    workspace.create()
    workspace.config.write_text("{}")
    standby = Standby()
    standby.prepare()
    assert standby._process is not None
    dead = standby._process
    dead.kill()
    dead.wait()
    trainer = Trainer(trainer_command(workspace, tmp_path, "cpu"), workspace, 1.0, standby)
    assert trainer.pid != dead.pid
    assert wait_for_end(trainer) == 2


def has_loaded(pid: int) -> bool:
    """Whether the process has loaded its libraries, and uses no processor any more."""
    before_s = psutil.Process(pid).cpu_times().user
    time.sleep(0.5)
    return psutil.Process(pid).cpu_times().user == before_s > 1


@pytest.mark.parametrize("loaded", [False, True])
def test_who_stands_by_leaves_with_the_worker(loaded: bool) -> None:
    standby = Standby()
    standby.prepare()
    process = standby._process
    assert process is not None
    assert process.stdin is not None
    time.sleep(1.0)
    deadline = time.monotonic() + 60
    while loaded and not has_loaded(process.pid):
        assert time.monotonic() < deadline, "the libraries were not loaded"
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(5) == 1
