"""`halflayer up` starts, avoids a taken port, and leaves no process behind."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.conftest import Installation, start, stop


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Installation]:
    """A stack of its own for a test that ends it."""
    # Whoever holds port 8000 on this machine, the stack must find another one.
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 8000))
            holder.listen()
        except OSError:
            pass  # another process has it already
        running = start(tmp_path / "data")
        try:
            running.link()
            yield running
        finally:
            if running.process.poll() is None:
                running.process.kill()
            running.process.wait()


def test_a_taken_port_is_avoided_and_ctrl_c_ends_all(started: Installation) -> None:
    assert not started.url.endswith(":8000")
    assert httpx.get(f"{started.url}/readyz", trust_env=False).json()["status"] == "ready"
    assert len(started.processes()) >= 4  # reaper, Valkey, API, worker
    files = list(started.data_dir.rglob("*"))
    assert {"halflayer.db", "cli-token", "worker.log", "children.json"} <= {f.name for f in files}
    assert [f for f in (started.data_dir, *files) if f.stat().st_mode & 0o077] == []
    begun = time.monotonic()
    stop(started)
    assert time.monotonic() - begun < 15
    assert started.process.returncode == 0
    assert not (started.data_dir / "server.json").exists()


def test_no_process_outlives_a_killed_up(started: Installation) -> None:
    everybody = started.processes()
    started.process.kill()
    started.process.wait()
    _, left = psutil.wait_procs(everybody[1:], timeout=20)
    assert not left, f"left running: {[process.cmdline() for process in left]}"
    # And the folder is free again.
    again = start(started.data_dir)
    try:
        again.link()
    finally:
        stop(again)


def test_a_child_that_dies_comes_back(started: Installation) -> None:
    api = next(each for each in started.processes() if "app.server" in each.cmdline())
    api.kill()
    deadline = time.monotonic() + 30
    while True:
        try:
            if httpx.get(f"{started.url}/readyz", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "the API did not come back"
        time.sleep(0.2)


def test_the_next_up_ends_what_one_killed_with_its_reaper_left(started: Installation) -> None:
    everybody = started.processes()
    reaper = next(each for each in everybody if "app.local.reaper" in each.cmdline())
    left = [each for each in everybody[1:] if each != reaper]
    port = started.url.rpartition(":")[2]
    reaper.kill()
    started.process.kill()
    started.process.wait()
    assert httpx.get(f"{started.url}/readyz", trust_env=False).is_success, "nothing was left"
    again = start(started.data_dir, "--port", port)
    try:
        assert again.url == started.url
        assert not psutil.wait_procs(left, timeout=1)[1]
        assert "stopping processes left by an earlier start: Valkey" in again.output.read_text()
    finally:
        stop(again)


def test_an_up_with_a_closed_pipe_keeps_serving_and_stops_cleanly(started: Installation) -> None:
    """`halflayer up | head -1`, and a terminal that is closed."""
    stop(started)
    up = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "up"],
        env=started.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert up.stdout is not None
    with up.stdout as out:
        assert out.readline()
    again = Installation(started.data_dir, up, started.output, started.environment)
    try:
        worker = next(each for each in again.processes() if "worker.main" in each.cmdline())
        reaper = next(each for each in again.processes() if "app.local.reaper" in each.cmdline())
        log = started.data_dir / "logs" / "up.log"
        worker.kill()
        deadline = time.monotonic() + 60
        while not log.exists() or "worker restarted" not in log.read_text():
            assert up.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        reaper.kill()
        stop(again, timeout_s=40)
        assert up.returncode == 0
    finally:
        if up.poll() is None:
            up.kill()
        up.wait()
