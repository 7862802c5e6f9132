"""Children come back when they fall over, and never outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app.children import Child, ChildFailed, Children

SLEEP = "import time; time.sleep(60)"
# Deaf to SIGTERM, and with a child of its own.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""
# A parent that starts one child, says its pid and then waits to be killed.
PARENT = """
import os, sys, time
from pathlib import Path
from app.children import Child, Children
children = Children()
child = Child("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ),
              Path(sys.argv[1]))
children.start(child)
print(child.process.pid, flush=True)
time.sleep(60)
"""


def wait_for(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def python_child(code: str, log_file: Path) -> Child:
    return Child("child", [sys.executable, "-c", code], dict(os.environ), log_file)


def test_a_child_that_fell_over_is_started_anew(tmp_path: Path) -> None:
    children = Children()
    child = python_child(SLEEP, tmp_path / "child.log")
    try:
        children.start(child)
        assert child.process is not None
        first = child.process.pid
        child.process.kill()
        child.process.wait()

        def is_back() -> bool:
            children.check()
            return child.process is not None and child.process.pid != first

        wait_for(is_back)
    finally:
        children.stop()


def test_a_child_that_keeps_leaving_is_given_up_with_its_log(tmp_path: Path) -> None:
    children = Children()
    child = python_child("raise SystemExit('no such device')", tmp_path / "child.log")
    child.quick_deaths = 3  # the last attempt; the earlier ones only take time
    try:
        children.start(child)
        assert child.process is not None
        child.process.wait()
        with pytest.raises(ChildFailed, match="no such device"):
            children.check()
    finally:
        children.stop()


def test_stop_ends_the_deaf_and_their_children(tmp_path: Path) -> None:
    children = Children()
    child = python_child(STUBBORN, tmp_path / "child.log")
    children.start(child)
    assert child.process is not None
    pid = child.process.pid
    wait_for(lambda: (tmp_path / "child.log").read_text().strip() != "")
    grandchild = int((tmp_path / "child.log").read_text())
    children.stop(grace_s=0.2)
    assert gone(pid)
    wait_for(lambda: gone(grandchild))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_parent_that_was_killed(tmp_path: Path, how: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "child.log")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout as out:
        pid = int(out.readline())
        assert not gone(pid)
        parent.send_signal(how)
        parent.wait()
    wait_for(lambda: gone(pid))


def test_stdin_text_reaches_the_child(tmp_path: Path) -> None:
    children = Children()
    child = python_child("import sys; print(sys.stdin.read())", tmp_path / "child.log")
    child.stdin_text = "a secret"
    try:
        children.start(child)
        assert child.process is not None
        child.process.wait()
        assert child.log_tail() == "a secret"
    finally:
        children.stop()
