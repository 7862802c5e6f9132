"""The real trainer's ties to its supervisor."""

import json
import os
import sys
import time
from pathlib import Path

from worker.trainer import trainer_command
from worker.workspace import Workspace


def test_the_trainer_leaves_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, 1)
    workspace.create()
    workspace.config.write_text(json.dumps({"kind": "teacher"}))
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
