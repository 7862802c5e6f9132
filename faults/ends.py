"""Runs that cannot go on: the loss becomes NaN, the host's memory ends."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from app.cli.client import Json
from app.runs.models import Run
from app.runs.states import RunState
from faults.figures import Figure, Row
from faults.installation import Installation, Process, installation, teacher, wait_for
from faults.trial import Trial
from kdcore.train.checkpoint import Checkpointer
from tests.fixtures.missing import skip_or_fail

_NAMED = re.compile(r"at step (\d+) \(epoch \d+, batches \d+ to \d+\)")
MIB = 1 << 20
WIDE = {
    "source": "scratch",
    "layers": 4,
    "hidden_size": 512,
    "heads": 8,
    "intermediate_size": 2048,
    "max_positions": 32,
    "dropout": 0.1,
}
"""A model of 13 million parameters: 200 MiB with its gradients and moments."""


def ends(trial: Trial) -> Iterator[Row]:
    """Each with a worker of its own installation."""
    with installation(trial.new_folder("ends"), HALFLAYER_STANDBY="true") as stand:
        corpus = stand.upload_text()
        yield _nan(trial, stand, corpus)
        yield _memory_limit(trial, stand, corpus)


def kernel_kills(trial: Trial) -> Iterator[Row]:
    """The kernel's own out-of-memory killer, let loose on a trainer in a small group."""
    with installation(trial.new_folder("kernel"), HALFLAYER_STANDBY="true") as stand:
        yield _memory_group(trial, stand, stand.upload_text())


def _nan(trial: Trial, stand: Installation, corpus: Json) -> Row:
    """A weight decay that makes the weights grow without end, at once or over some steps.

    One run looks and saves at every update; the other one, the same but for that, seldom.
    """
    draw, times = trial.random("nan"), trial.times(1, 4)
    late, unnamed, bad_checkpoints, retried = 0, [], 0, 0
    for number in range(times):
        trial.say(f"NaN: {number + 1} of {times}")
        optimiser = {"learning_rate": 1.0, "weight_decay": 10 ** draw.uniform(1.5, 6)}
        reports = ((1, 0), (10, 3600))
        ids = [
            stand.client.submit_run(
                teacher(
                    corpus,
                    200,
                    optimiser=optimiser,
                    reporting={"log_every_steps": steps, "checkpoint_every_s": seconds},
                )
            )["id"]
            for steps, seconds in reports
        ]
        runs = stand.wait_final(ids)
        named = [_NAMED.search(run.error_message or "") for run in runs]
        if not all(named) or any(run.error_code != "nan" for run in runs):
            unnamed += [f"{run.state} {run.error_code}: {run.error_message}" for run in runs]
            continue
        often, seldom = (int(match[1]) for match in named if match)
        sound = [p.step for p in stand.points(ids[0]) if p.name == "loss" and _finite(p.value)]
        late = max(late, often - max(sound, default=0) - 1, seldom - often)
        retried += sum(run.attempt > 1 for run in runs)
        folder = stand.data_dir / "work" / ids[0] / "attempt-1" / "checkpoints"
        newest, _ = Checkpointer(folder).load_newest()
        if newest is not None:
            bad_checkpoints += not all(each.isfinite().all() for each in newest.model.values())
    return Row(
        "the loss becomes NaN",
        2 * times,
        "failed, `nan`: `loss became NaN or infinite at step 7 (epoch 1, batches 13 to 14): "
        "lower the learning rate ...`",
        [
            Figure("nan_found_after_updates", late, 1),
            Figure("misnamed_failures", len(unnamed), reason="; ".join(unnamed)),
            Figure("nan_checkpoints", bad_checkpoints),
            Figure("retried_runs", retried),
        ],
    )


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _ready_process(worker: Process) -> psutil.Process:
    """The process that is to be the worker's next trainer, once it has loaded its libraries."""

    def found() -> psutil.Process | None:
        with suppress(psutil.Error):
            for child in psutil.Process(worker.process.pid).children():
                # Its thread that watches over its parent comes first, the libraries then.
                if child.cmdline()[-1:] == ["standby"] and child.status() == "sleeping":
                    before = child.cpu_times().user
                    with suppress(psutil.TimeoutExpired):
                        child.wait(1)
                    if child.cpu_times().user == before > 1:
                        return child
        return None

    process: psutil.Process = wait_for(found, 120, "a process that stands by")
    return process


def _wide(corpus: Json) -> Json:
    return teacher(corpus, 50, model=WIDE, schedule={"max_steps": 50, "batch_size": 16})


class _Failures:
    """What runs said that ended for want of memory."""

    def __init__(self) -> None:
        self.misnamed: list[str] = []
        self.without_advice = 0
        self.retried = 0

    def count(self, run: Run) -> None:
        message = run.error_message or ""
        if run.state != RunState.FAILED or run.error_code != "oom_host":
            self.misnamed.append(f"{run.state} {run.error_code}: {message[-300:]}")
        self.without_advice += "smaller model" not in message
        self.retried += run.attempt > 1

    def figures(self) -> list[Figure]:
        return [
            Figure("misnamed_failures", len(self.misnamed), reason="; ".join(self.misnamed)),
            Figure("failures_without_advice", self.without_advice),
            Figure("retried_runs", self.retried),
        ]


def _memory_limit(trial: Trial, stand: Installation, corpus: Json) -> Row:
    """The trainer gets so much more than it has, and no more: at a random place that is too
    little."""
    draw, times = trial.random("memory"), trial.times(2, 10)
    failures = _Failures()
    (worker,) = stand.workers
    for number in range(times):
        trial.say(f"memory limits: {number + 1} of {times}")
        process = _ready_process(worker)
        limit = process.memory_info().vms + int(MIB * 2 ** draw.uniform(1, 7))
        process.rlimit(psutil.RLIMIT_AS, (limit, limit))
        failures.count(*stand.wait_final([stand.client.submit_run(_wide(corpus))["id"]]))
    return Row(
        "no memory on the host, at a random place (a limit of address space)",
        times,
        "failed, `oom_host`: `the machine has no memory left: use a smaller model ...`",
        failures.figures(),
    )


def _memory_group(trial: Trial, stand: Installation, corpus: Json) -> Row:
    draw, times = trial.random("kernel"), trial.times(1, 3)
    failures = _Failures()
    (worker,) = stand.workers
    for number in range(times):
        trial.say(f"kernel's kills: {number + 1} of {times}")
        process = _ready_process(worker)
        with _small_group(draw.randrange(16, 100) * MIB) as group:
            (group / "cgroup.procs").write_text(str(process.pid))
            failures.count(*stand.wait_final([stand.client.submit_run(_wide(corpus))["id"]]))
    return Row(
        "no memory on the host: the kernel kills the trainer",
        times,
        "failed, `oom_host`: `the machine ran out of memory and its kernel killed the trainer: "
        "use a smaller model ...`",
        failures.figures(),
    )


@contextmanager
def _small_group(limit_bytes: int) -> Iterator[Path]:
    """A control group below our own whose processes get so much memory."""
    try:
        group = _own_group() / f"halflayer-faults-{os.getpid()}"
        group.mkdir()
    except OSError as error:
        skip_or_fail(f"no control group for memory can be made here: {error}")
    try:
        limits = [group / name for name in ("memory.limit_in_bytes", "memory.max")]
        there = [limit for limit in limits if limit.exists()]
        if not there:
            skip_or_fail("control groups here do not limit memory")
        there[0].write_text(str(limit_bytes))
        yield group
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), 60, "an empty group")
        group.rmdir()


def _own_group() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path("/sys/fs/cgroup/memory") / path.lstrip("/")
    return Path("/sys/fs/cgroup") / path.lstrip("/")
