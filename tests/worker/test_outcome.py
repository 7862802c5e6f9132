"""What a trainer's end is taken for."""

import signal
from pathlib import Path
from typing import Any

import pytest

from kdcore.events import Ending, RunFailed, RunResult
from worker.outcome import (
    Failed,
    Lost,
    OomWatch,
    Outcome,
    Stopped,
    Succeeded,
    oom_counter,
    outcome_of,
)

RESULT = RunResult(summary={"steps": 3})
NAN = RunFailed(code="nan", message="the loss is NaN")


def judge(status: int, event: Ending | None = None, **how: Any) -> Outcome:
    defaults = {"asked_to_stop": False, "oom_killed": False, "stderr_tail": "Traceback"}
    return outcome_of(status, event, **(defaults | how))


@pytest.mark.parametrize("status", [0, 75, 76, -signal.SIGTERM, -signal.SIGKILL])
@pytest.mark.parametrize("asked_to_stop", [True, False])
def test_a_result_is_a_success_however_its_process_left(status: int, asked_to_stop: bool) -> None:
    """A SIGTERM kills an interpreter that is being shut down, whatever its handler was."""
    assert judge(status, RESULT, asked_to_stop=asked_to_stop) == Succeeded({"steps": 3})


def test_leaving_without_a_result_is_our_mistake() -> None:
    outcome = judge(0)
    assert isinstance(outcome, Failed)
    assert outcome.code == "internal"
    assert "Traceback" in outcome.message


def test_a_typed_failure_keeps_its_type() -> None:
    assert judge(1, NAN) == Failed("nan", "the loss is NaN")
    assert judge(1, NAN, asked_to_stop=True) == Failed("nan", "the loss is NaN")


def test_what_was_reported_before_a_hang_counts() -> None:
    assert judge(-signal.SIGKILL, RESULT, hung_s=9.0) == Succeeded({"steps": 3})
    assert judge(-signal.SIGKILL, NAN, hung_s=9.0) == Failed("nan", "the loss is NaN")
    assert isinstance(judge(-signal.SIGKILL, hung_s=9.0), Lost)
    # Killed from outside: a rank may have failed because another one was killed.
    assert isinstance(judge(-signal.SIGKILL, NAN), Lost)


def test_a_crash_without_words_is_internal_with_stderrs_end() -> None:
    for status in (1, 2, -signal.SIGSEGV, -signal.SIGABRT):
        outcome = judge(status)
        assert isinstance(outcome, Failed)
        assert outcome.code == ("config" if status == 2 else "internal")
        assert "Traceback" in outcome.message


@pytest.mark.parametrize(
    "words",
    [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "memory allocation of 4096 bytes failed",
        "libgomp: Thread creation failed: Resource temporarily unavailable",
        "pyo3_runtime.PanicException: ThreadPoolBuildError { kind: IOError(Os { code: 11 }) }",
    ],
)
def test_a_crash_for_lack_of_memory_is_one_of_the_hosts(words: str) -> None:
    for status in (1, -signal.SIGABRT):
        outcome = judge(status, stderr_tail=words)
        assert isinstance(outcome, Failed)
        assert outcome.code == "oom_host"
        assert words in outcome.message
        assert "use a smaller model" in outcome.message


def test_a_lost_device_is_a_loss_and_no_failure_of_the_run() -> None:
    message = "the device is missing, busy or broken: CUDA error: uncorrectable ECC error"
    told = judge(1, RunFailed(code="device_lost", message=message))
    assert told == Lost(message, "device_lost")
    words = "terminate called after throwing an instance of 'c10::AcceleratorError'\n  what():  "
    crashed = judge(-signal.SIGABRT, stderr_tail=f"{words}CUDA error: unspecified launch failure")
    assert isinstance(crashed, Lost)
    assert crashed.code == "device_lost"
    full = judge(-signal.SIGABRT, stderr_tail=f"{words}CUDA error: out of memory")
    assert isinstance(full, Failed)
    assert full.code == "oom_device"
    warned = judge(1, stderr_tail="UserWarning: CUDA initialization: The NVIDIA driver is too old")
    assert isinstance(warned, Failed)
    assert warned.code == "internal"


def test_a_process_that_nccl_ended_has_lost_another_one() -> None:
    words = "[Rank 1] ProcessGroupNCCL's watchdog got stuck for 480 seconds"
    assert isinstance(judge(-signal.SIGABRT, stderr_tail=words), Lost)


def test_a_trainer_that_cannot_even_write_its_events() -> None:
    outcome = judge(73)
    assert isinstance(outcome, Failed)
    assert outcome.code == "disk_full"


@pytest.mark.parametrize("status", [75, 76, -signal.SIGTERM, -signal.SIGKILL])
def test_a_stop_is_a_stop_if_we_asked_and_a_loss_if_not(status: int) -> None:
    assert judge(status, asked_to_stop=True) == Stopped()
    assert isinstance(judge(status), Lost)


def test_the_oom_killer_is_distinguished_from_a_kill() -> None:
    outcome = judge(-signal.SIGKILL, oom_killed=True)
    assert isinstance(outcome, Failed)
    assert outcome.code == "oom_host"


def test_the_watch_sees_the_counter_rise(tmp_path: Path) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 3\noom_kill 1\n")
    watch = OomWatch(counter)
    assert not watch.struck()
    counter.write_text("low 0\noom 4\noom_kill 1\n")
    assert not watch.struck()
    counter.write_text("low 0\noom 4\noom_kill 2\n")
    assert watch.struck()


@pytest.mark.parametrize(
    ("groups", "counter"),
    [
        ("0::/user.slice/worker\n", "user.slice/worker/memory.events"),
        ("0::/\n", "memory.events"),  # a container
        ("5:cpu:/x\n4:cpuacct,memory:/worker\n0::/\n", "memory/worker/memory.oom_control"),
        ("4:memory:/docker/1234\n", "memory/memory.oom_control"),  # a container
    ],
)
def test_kills_are_counted_in_the_own_control_group(
    tmp_path: Path, groups: str, counter: str
) -> None:
    groups_file, cgroups = tmp_path / "cgroup", tmp_path / "fs"
    groups_file.write_text(groups)
    (cgroups / counter).parent.mkdir(parents=True)
    (cgroups / counter).write_text("oom_kill 0\n")
    assert oom_counter(groups_file, cgroups) == cgroups / counter


def test_without_a_control_group_the_machine_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/\n")
    assert oom_counter(own, tmp_path) == Path("/proc/vmstat")
    assert oom_counter(tmp_path / "none", tmp_path) == Path("/proc/vmstat")
