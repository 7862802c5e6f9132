"""Children come back when they fall over, and never outlive their parent."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import app.local.processes
from app.local.processes import Child, ChildFailed, Children, end_leftovers

pytestmark = pytest.mark.integration

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
import app.local.processes
import app.local.processes
from app.local.processes import Child, Children
children = Children(Path(sys.argv[1]).with_name("children.json"), print)
child = Child("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ),
              Path(sys.argv[1]))
children.start(child)
print(child.process.pid, flush=True)
time.sleep(60)
"""


PARENT_THAT_CHECKS = PARENT.replace(
    "time.sleep(60)\n",
    "app.local.processes.REAPER_RESTART_S = 0\n"
    "while True: children.check(); sys.stdout.flush(); time.sleep(0.1)\n",
)
# 2 MB in some two seconds.
CHATTERBOX = """
import time
for n in range(200):
    print(("x" * 99 + "\\n") * 100, end="", flush=True)
    time.sleep(0.01)
print("the end", flush=True)
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


def reaper_of(pid: int) -> psutil.Process:
    (reaper,) = [
        each for each in psutil.Process(pid).children() if "app.local.reaper" in each.cmdline()
    ]
    return reaper


def python_child(code: str, log_file: Path) -> Child:
    return Child("child", [sys.executable, "-c", code], dict(os.environ), log_file)


def test_a_crashed_child_is_restarted(tmp_path: Path) -> None:
    children = Children(tmp_path / "children.json", print)
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


def test_a_child_that_does_not_start_is_given_up_with_its_log(tmp_path: Path) -> None:
    children = Children(tmp_path / "children.json", print)
    child = python_child("raise SystemExit('no such device')", tmp_path / "child.log")
    child.quick_deaths = 3  # the last attempt; the earlier ones only take time
    try:
        children.start(child)
        assert child.process is not None
        child.process.wait()
        with pytest.raises(ChildFailed, match="no such device"):
            children.check(starting=True)
    finally:
        children.stop()


def test_a_child_that_keeps_leaving_is_restarted_for_ever_beside_the_others(tmp_path: Path) -> None:
    said: list[str] = []
    children = Children(tmp_path / "children.json", said.append)
    bad = python_child("raise SystemExit(7)", tmp_path / "bad.log")
    good = python_child(SLEEP, tmp_path / "good.log")
    try:
        children.start(good)
        children.start(bad)
        for _ in range(12):
            assert bad.process is not None
            bad.process.wait()
            children.check()
            assert bad.restart_at_s is not None
            assert bad.restart_at_s - time.monotonic() <= 60
            bad.restart_at_s = 0.0  # the wait only takes time
            children.check()
        assert good.process is not None
        assert good.process.poll() is None
        assert sum("exited with code 7; restarting in" in each for each in said) == 12
        assert "restarting in 3 s (attempt 3)" in said[4]
        assert "restarting in 60 s (attempt 12)" in said[-2]
    finally:
        children.stop()


def test_what_is_said_of_an_exit_has_the_reason_that_the_log_ends_with(tmp_path: Path) -> None:
    said: list[str] = []
    children = Children(tmp_path / "children.json", said.append)
    try:
        children.start(python_child("print('a'); raise SystemExit('no GPU')", tmp_path / "x.log"))
        wait_for(lambda: children.check() or bool(said))
        assert "exited with code 1 (last log line: no GPU); restarting in 0 s" in said[0]
    finally:
        children.stop()


def test_a_child_that_cannot_be_started_again_is_put_off(tmp_path: Path) -> None:
    said: list[str] = []
    children = Children(tmp_path / "children.json", said.append)
    child = python_child(SLEEP, tmp_path / "child.log")
    try:
        children.start(child)
        assert child.process is not None
        child.process.kill()
        child.process.wait()
        child.command = [str(tmp_path / "not-there")]
        children.check()
        children.check()
        assert "cannot be started" in said[-1]
        assert "restarting in 1 s (attempt 2)" in said[-1]
    finally:
        children.stop()


def test_a_killed_reaper_is_restarted_and_still_ends_the_children(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT_THAT_CHECKS, str(tmp_path / "child.log")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout as out:
        pid = int(out.readline())
        reaper_of(parent.pid).kill()
        assert "reaper exited with code -9" in out.readline()
        parent.kill()
        parent.wait()
    wait_for(lambda: gone(pid), 30)


def test_stop_ends_all_though_the_reaper_is_gone(tmp_path: Path) -> None:
    others = set(psutil.Process().children())
    children = Children(tmp_path / "children.json", print)
    (reaper,) = set(psutil.Process().children()) - others
    child = python_child(SLEEP, tmp_path / "child.log")
    children.start(child)
    assert child.process is not None
    pid = child.process.pid
    reaper.kill()
    wait_for(lambda: gone(reaper.pid))
    children.stop()
    assert gone(pid)
    assert not (tmp_path / "children.json").exists()


def test_what_a_killed_parent_and_its_killed_reaper_left_is_ended(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "child.log")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout as out:
        pid = int(out.readline())
        reaper_of(parent.pid).kill()
        parent.kill()
        parent.wait()
    record = tmp_path / "children.json"
    assert record.stat().st_mode & 0o077 == 0
    stranger = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    try:
        listed = json.loads(record.read_text())
        # As if that pid had been another process's once.
        listed.append({"name": "other", "pid": stranger.pid, "born_s": time.time() - 1000})
        record.write_text(json.dumps(listed))
        assert not gone(pid)
        said: list[str] = []
        end_leftovers(record, said.append)
        assert gone(pid)
        assert stranger.poll() is None
        assert said == [f"stopping processes left by an earlier start: sleeper (process {pid})"]
        assert not record.exists()
        end_leftovers(record, said.append)
        assert len(said) == 1
    finally:
        stranger.kill()
        stranger.wait()


def test_a_log_is_cut_while_its_child_writes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.local.processes.MAX_LOG_BYTES", 10_000)
    log = tmp_path / "child.log"
    children = Children(tmp_path / "children.json", print)
    child = python_child(CHATTERBOX, log)
    sizes = []
    try:
        children.start(child)
        deadline = time.monotonic() + 60
        while "the end" not in child.log_tail():
            assert time.monotonic() < deadline
            children.check()
            sizes.append(log.stat().st_size)
            time.sleep(0.005)
    finally:
        children.stop()
    assert max(sizes) < 400_000, "it wrote 2,000,000 bytes"
    assert (tmp_path / "child.old.log").stat().st_size > 10_000
    assert "\0" not in log.read_text()


def test_stop_kills_children_that_ignore_sigterm(tmp_path: Path) -> None:
    children = Children(tmp_path / "children.json", print)
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
    children = Children(tmp_path / "children.json", print)
    child = python_child("import sys; print(sys.stdin.read())", tmp_path / "child.log")
    child.stdin_text = "a secret"
    try:
        children.start(child)
        assert child.process is not None
        child.process.wait()
        assert child.log_tail() == "a secret"
    finally:
        children.stop()


def test_every_python_that_is_started_ignores_the_current_folder() -> None:
    """-P, or -I, which includes it: see tests/e2e/test_current_folder.py for what it prevents."""
    root = Path(app.local.processes.__file__).parents[2]
    found, lax = 0, []
    for path in (
        path for name in ("app", "worker", "kdcore") for path in (root / name).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List) and [*map(ast.unparse, node.elts)][:1] == [
                "sys.executable"
            ]:
                found += 1
                if ast.unparse(node.elts[1]) not in ("'-P'", "'-I'"):
                    lax.append(f"{path.relative_to(root)}:{node.lineno}")
    assert found >= 5
    assert lax == []
