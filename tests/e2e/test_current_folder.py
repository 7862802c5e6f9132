"""Nothing is imported from the current folder, whatever lies there under a module's name."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.cli.client import Client
from app.local.embedded_broker import BrokerMissing, free_port, valkey_binary
from app.local.state import find_server, read_token
from tests.fixtures.configs import tiny_pipeline
from tests.fixtures.missing import skip_or_fail
from worker.trainer_process import trainer_command
from worker.workspace import Workspace

HALFLAYER = str(Path(sys.executable).with_name("halflayer"))
TIMEOUT_S = 180
SHADOW = "import os\nopen({marker!r}, 'a').write(__name__ + ' ')\nraise ImportError('a shadow')\n"
TEACHER: dict[str, Any] = {"kind": "teacher"} | tiny_pipeline(teacher_steps=4)["teacher"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A current folder where each module that could be imported has a shadow."""
    folder, marker = tmp_path / "current", tmp_path / "imported"
    folder.mkdir()
    ours = {"app", "worker", "kdcore", "alembic", "sitecustomize", "usercustomize", "celeryconfig"}
    for name in {*sys.stdlib_module_names, *packages_distributions(), *ours}:
        if name.isidentifier():
            (folder / f"{name}.py").write_text(SHADOW.format(marker=str(marker)))
    yield folder
    assert not marker.exists(), f"imported from the current folder: {marker.read_text()}"


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"HF_HUB_OFFLINE": "1"} | settings


@contextmanager
def started(folder: Path, *words: str, **settings: str) -> Iterator[Path]:
    """`halflayer` with these words, for the duration of the block; yields its output's file."""
    output = folder.parent / f"{words[0]}.out"
    with open(output, "wb") as out:
        process = subprocess.Popen(
            [HALFLAYER, *words],
            cwd=folder,
            env=environment(**settings),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield output
        assert process.poll() is None, output.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def wait_for(condition: Callable[[], object], output: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.3)


def trains(client: Client) -> bool:
    """Whether a trainer has come as far as its first update."""
    runs = client.runs()["items"]
    assert all(run["state"] not in ("failed", "skipped") for run in runs), runs
    phases = {(run["progress"] or {}).get("phase") for run in runs}
    return "training" in phases or any(run["state"] == "succeeded" for run in runs)


@pytest.mark.parametrize("command", ["up", "demo"])
def test_an_installation_and_its_worker(folder: Path, command: str) -> None:
    try:
        valkey_binary()
    except BrokerMissing as error:
        skip_or_fail(str(error))
    data_dir = folder.parent / "data"
    settings = {"HALFLAYER_DATA_DIR": str(data_dir), "HALFLAYER_PORT": str(free_port())}
    with started(folder, command, **settings) as output:
        wait_for(lambda: find_server(data_dir), output)
        server, token = find_server(data_dir), read_token(data_dir)
        assert server is not None
        assert token is not None
        with Client(server.url, token) as client:
            if command == "up":
                client.submit_run(TEACHER)
            wait_for(lambda: trains(client), output)
        if command == "up":
            # A vocabulary is checked in a process of its own.
            httpx.post(
                f"{server.url}/api/v1/datasets",
                files={"file": ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")},
                data={"kind": "tokenizer"},
                headers={"Authorization": f"Bearer {token}"},
                timeout=60,
                trust_env=False,
            ).raise_for_status()
            with started(folder, "worker", "--device", "auto", **settings) as log:
                wait_for(lambda: " on cpu" in log.read_text(), log)


def test_a_trainer_and_its_ranks(folder: Path) -> None:
    workspace = Workspace(folder.parent / "run", 1)
    workspace.create()
    workspace.config.write_text(json.dumps(TEACHER))
    workspace.inputs_file.write_text("{}")
    command = trainer_command(workspace, folder.parent / "cache", "cpu,cpu")
    with open(workspace.stderr, "wb") as stderr:
        trainer = subprocess.Popen(
            command, cwd=folder, env=environment(), stdin=subprocess.PIPE, stderr=stderr
        )
    with trainer:  # which leaves when its standard input is closed
        assert trainer.wait(TIMEOUT_S) == 0, workspace.stderr.read_text()
