"""A whole installation, started as a user starts it: `halflayer up` in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from app.local.embedded_broker import BrokerMissing, free_port, valkey_binary
from tests.fixtures.missing import skip_or_fail

START_TIMEOUT_S = 120
MODULE = (sys.executable, "-m", "app.cli")
LINK = re.compile(r"http://127\.0\.0\.1:\d+/login#token=hl_login_\S+")


@dataclass
class Installation:
    """A running stack and the command line that belongs to it."""

    data_dir: Path
    process: subprocess.Popen[bytes]
    output: Path
    environment: dict[str, str]
    command: tuple[str, ...] = MODULE
    cwd: Path | None = None

    def link(self) -> str:
        """The sign-in link, once `up` has printed it."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            text = self.output.read_text()
            found = LINK.search(text)
            if found:
                return found[0]
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"halflayer up printed no link:\n{self.output.read_text()}")

    @property
    def url(self) -> str:
        return self.link().partition("/login")[0]

    def halflayer(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the command line against this installation."""
        return subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def processes(self) -> list[psutil.Process]:
        """The parent and everything that it has started, directly or not."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


def start(data_dir: Path, *arguments: str) -> Installation:
    """`halflayer up` on a data folder."""
    data_dir.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HALFLAYER_")}
    environment = {
        **kept,
        "HALFLAYER_DATA_DIR": str(data_dir),
        # Nothing may need the home folder; an empty one stands for it.
        "HOME": str(data_dir.parent),
        "COLUMNS": "200",
        "HF_HUB_OFFLINE": "1",
    }
    output = data_dir.parent / f"{data_dir.name}.out"
    return launch(MODULE, *arguments, environment=environment, data_dir=data_dir, output=output)


def launch(
    command: tuple[str, ...],
    *arguments: str,
    environment: dict[str, str],
    data_dir: Path,
    output: Path,
    cwd: Path | None = None,
) -> Installation:
    """`up` by this command line."""
    try:
        valkey_binary()
    except BrokerMissing as error:
        skip_or_fail(str(error))
    with open(output, "wb") as out:
        process = subprocess.Popen(
            [*command, "up", *arguments],
            env=environment,
            cwd=cwd,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Installation(data_dir, process, output, environment, command, cwd)


def stop(installation: Installation, timeout_s: float = 20) -> None:
    """Ctrl-C, and proof that no process is left."""
    everybody = installation.processes() if installation.process.poll() is None else []
    installation.process.send_signal(signal.SIGINT)
    installation.process.wait(timeout=timeout_s)
    _, left = psutil.wait_procs(everybody, timeout=10)
    assert not left, f"left running: {[process.cmdline() for process in left]}"


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One stack for all end-to-end tests that do not end it themselves."""
    running = start(tmp_path_factory.mktemp("installation") / "data", "--port", str(free_port()))
    try:
        running.link()
        yield running
        stop(running)
    finally:
        if running.process.poll() is None:
            running.process.kill()  # the reaper ends the rest
            running.process.wait()
