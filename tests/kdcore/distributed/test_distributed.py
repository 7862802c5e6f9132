"""Runs that two processes carry out together, started by torchrun for real; gloo on the CPU."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from kdcore.config import (
    DistillConfig,
    DistillLines,
    DistillOptimiser,
    DistillSchedule,
    Evaluation,
    FileCorpus,
    FolderCheckpoint,
    PruneConfig,
    Reporting,
    RunConfig,
    Schedule,
    TeacherConfig,
)
from kdcore.data.batching import Batch
from kdcore.distributed.process_group import Ranks
from kdcore.distributed.torchrun import TorchrunEnv, process_count
from kdcore.errors import ConfigError
from kdcore.events import (
    CheckpointSaved,
    Event,
    ListSink,
    Log,
    Metrics,
    RunFailed,
    RunResult,
    RunStarted,
    RunStopped,
)
from kdcore.model.layerdrop import layers_active
from kdcore.run import execute
from kdcore.train.context import Completed
from tests.fixtures.configs import tiny_teacher
from tests.fixtures.events import read_events

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
UPDATES = 60
SAVE_ALWAYS = Reporting(log_every_steps=1, checkpoint_every_s=0)
QUICKLY_S = 30.0
"""Far less than anybody's time-out; these machines are busy."""


def teacher_config(corpus: FileCorpus, **changes: object) -> TeacherConfig:
    """All that could go differently from rank to rank: LayerDrop, dropout, accumulation."""
    config = {
        "schedule": Schedule(batch_size=4, accumulation_steps=2, max_steps=UPDATES),
        "reporting": SAVE_ALWAYS,
        "evaluation": Evaluation(every_steps=25),
        "precision": "fp32",
    }
    return tiny_teacher(corpus, **config | changes)


@dataclass(frozen=True)
class Together:
    """One run of two processes, and what each of them had in the end."""

    config: RunConfig
    out: Path
    notes: Path

    @property
    def events(self) -> list[Event]:
        return read_events(self.out)

    def weights(self, rank: int) -> dict[str, torch.Tensor]:
        return load_file(self.notes / f"{rank}.safetensors")

    def layers(self, rank: int) -> dict[int, list[int]]:
        noted = json.loads((self.notes / f"{rank}.json").read_text())
        return {int(step): active for step, active in noted.items()}


def points(events: list[Event]) -> dict[tuple[str, int], float]:
    """The value of each curve at each step, but for the throughput."""
    return {
        (name, event.step): value
        for event in events
        if isinstance(event, Metrics)
        for name, value in event.values.items()
        if name != "tokens_per_s"
    }


def arguments(config: RunConfig, out: Path, cache: Path) -> list[str]:
    out.mkdir(parents=True, exist_ok=True)
    path = out / "config.json"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    return [
        *("run", "--config", str(path), "--out", str(out), "--cache", str(cache)),
        *("--device", "cpu", "--quiet"),
    ]


def torchrun(program: str, *given: str) -> subprocess.CompletedProcess[str]:
    """Two processes of torchrun as people start it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*command, "--nproc-per-node", "2", str(HERE / program), *given],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


@contextmanager
def launched(config: RunConfig, out: Path, cache: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`python -m kdcore run --devices 2`; nothing of it outlives the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kdcore", *arguments(config, out, cache), "--devices", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def rank_processes(launcher: "subprocess.Popen[bytes]") -> dict[int, psutil.Process]:
    children = psutil.Process(launcher.pid).children()
    return {int(child.environ()["RANK"]): child for child in children}


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {what}"
        time.sleep(0.02)


def checkpoints(out: Path) -> int:
    """How many checkpoints have been announced."""
    path = out / "events.jsonl"
    return path.read_bytes().count(b'"type":"checkpoint"') if path.exists() else 0


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def assert_same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def teacher(
    corpus: FileCorpus, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Together:
    return _train_together(teacher_config(corpus), cache_dir, tmp_path_factory)


@pytest.fixture(scope="module")
def student(
    teacher: Together,
    corpus: FileCorpus,
    cache_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Together:
    checkpoint = FolderCheckpoint(path=str(teacher.out / "model"))
    pruned = tmp_path_factory.mktemp("pruned")
    execute(PruneConfig(teacher=checkpoint), pruned, ListSink(), device="cpu")
    config = DistillConfig(
        teacher=checkpoint,
        student=FolderCheckpoint(path=str(pruned / "model")),
        corpus=corpus,
        lines=DistillLines(min_tokens=5),
        schedule=DistillSchedule(batch_size=8, accumulation_steps=4, max_steps=12),
        optimiser=DistillOptimiser(learning_rate=1e-3, weight_decay=0.01),
        reporting=SAVE_ALWAYS,
        precision="fp32",
        seed=3,
    )
    return _train_together(config, cache_dir, tmp_path_factory)


def _train_together(
    config: RunConfig, cache_dir: Path, folders: pytest.TempPathFactory
) -> Together:
    found = Together(config, folders.mktemp("together"), folders.mktemp("notes"))
    given = arguments(config, found.out, cache_dir)
    done = torchrun("ranks_train.py", str(found.notes), "none", *given)
    assert done.returncode == 0, done.stderr
    return found


# ------------------------------------------------------------------------- what comes out of it


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_two_devices_lose_as_one_does(
    who: str, request: pytest.FixtureRequest, cache_dir: Path, tmp_path: Path
) -> None:
    """Not the same bits: two devices add up (a + b) + (c + d), one ((a + b) + c) + d."""
    together: Together = request.getfixturevalue(who)
    alone = ListSink()
    execute(together.config, tmp_path, alone, cache_dir=cache_dir, device="cpu")
    expected, found = points(alone.events), points(together.events)
    assert found.keys() == expected.keys()
    assert {"loss", "grad_norm", "eval/loss"} <= {name for name, _ in found}
    for at, value in expected.items():
        assert math.isclose(found[at], value, rel_tol=1e-5), at
    (ours,) = (e.summary for e in together.events if isinstance(e, RunResult))
    (theirs,) = (e.summary for e in alone.events if isinstance(e, RunResult))
    assert ours.keys() == theirs.keys()
    assert ours["tokens"] == theirs["tokens"]
    assert math.isclose(ours["eval_loss"], theirs["eval_loss"], rel_tol=1e-5)


def test_the_batch_of_a_step_is_shared_whatever_its_microbatches(
    corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> None:
    """One batch of three sequences, cut for two; dropout off, since it depends on the cuts."""
    config = teacher_config(corpus)
    quiet = config.model.model_copy(update={"dropout": 0.0})  # type: ignore[union-attr]
    few = Schedule(batch_size=3, accumulation_steps=1, max_steps=8)
    config = config.model_copy(update={"model": quiet, "schedule": few})
    alone = ListSink()
    execute(config, tmp_path / "alone", alone, cache_dir=cache_dir, device="cpu")
    with launched(config, tmp_path / "together", cache_dir) as process:
        assert process.wait(180) == 0
    expected, found = points(alone.events), points(read_events(tmp_path / "together"))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_both_have_the_same_weights_and_those_are_published(
    who: str, request: pytest.FixtureRequest
) -> None:
    together: Together = request.getfixturevalue(who)
    assert_same_bits(together.weights(0), together.weights(1))
    published = load_file(together.out / "model" / "model.safetensors")
    assert all(torch.equal(published[name], together.weights(0)[name]) for name in published)


def test_both_drop_the_same_layers(teacher: Together) -> None:
    expected = {step: layers_active(4, 0.3, 5, step) for step in range(UPDATES)}
    assert any(len(active) < 4 for active in expected.values())
    assert teacher.layers(0) == expected
    # The last step has a single microbatch, which the main process computes.
    del expected[UPDATES - 1]
    assert teacher.layers(1) == expected


def test_only_the_main_process_logs(teacher: Together) -> None:
    said = [e.step for e in teacher.events if isinstance(e, CheckpointSaved)]
    assert said == list(range(1, UPDATES))
    (started,) = (e for e in teacher.events if isinstance(e, RunStarted))
    assert started.device.count("CPU") == 2


# -------------------------------------------------------------------------- what may go wrong


def test_after_a_kill_the_run_resumes_bit_for_bit(
    teacher: Together, cache_dir: Path, tmp_path: Path
) -> None:
    for victim in (0, 1, "launcher"):
        before = checkpoints(tmp_path)
        with launched(teacher.config, tmp_path, cache_dir) as process:
            wait_for(lambda before=before: checkpoints(tmp_path) > before + 1, "training")
            ranks = rank_processes(process)
            for rank in ranks.values():  # nothing of theirs leaves the host, on GPUs neither
                told = rank.environ()
                assert (told["GLOO_SOCKET_IFNAME"], told["NCCL_SOCKET_IFNAME"]) == ("lo", "lo")
            assert len(ranks) == 2
            struck_s = time.monotonic()
            (process if victim == "launcher" else ranks[victim]).kill()  # type: ignore[index]
            # The launcher ends as its process did, so that a supervisor sees a loss.
            assert process.wait(QUICKLY_S) == -signal.SIGKILL
            wait_for(lambda ranks=ranks: all(map(gone, ranks.values())), "the end", QUICKLY_S)
            assert time.monotonic() - struck_s < QUICKLY_S
        assert not [e for e in read_events(tmp_path, torn=True) if isinstance(e, RunFailed)]
    assert not (tmp_path / "model").exists(), "too quick for this test: train for longer"
    with launched(teacher.config, tmp_path, cache_dir) as process:
        assert process.wait(180) == 0
    assert_same_bits(
        load_file(tmp_path / "model" / "model.safetensors"),
        load_file(teacher.out / "model" / "model.safetensors"),
    )
    # A repeated step is logged again; the later event counts, and is the same.
    assert points(read_events(tmp_path, torn=True)) == points(teacher.events)


def test_a_request_to_stop_is_agreed_on_and_one_device_can_go_on(
    teacher: Together, cache_dir: Path, tmp_path: Path
) -> None:
    with launched(teacher.config, tmp_path, cache_dir) as process:
        wait_for(lambda: checkpoints(tmp_path) > 2, "training")
        processes = [psutil.Process(process.pid), *rank_processes(process).values()]
        ports = [port for each in processes for port in each.net_connections("inet")]
        # What torchrun's own rendezvous hears from anybody, it unpickles.
        assert {port.laddr.ip for port in ports if port.status == "LISTEN"} == {"127.0.0.1"}
        process.terminate()
        assert process.wait(QUICKLY_S) == 75
    stopped = read_events(tmp_path)[-1]
    assert isinstance(stopped, RunStopped)
    assert (tmp_path / "checkpoints" / f"step-{stopped.step:08d}").is_dir()
    assert not (tmp_path / ".torchrun").exists()
    alone = ListSink()
    ended = execute(teacher.config, tmp_path, alone, cache_dir=cache_dir, device="cpu")
    assert isinstance(ended, Completed)
    assert any(
        "no longer bit-for-bit reproducible" in event.message for event in alone.of_type(Log)
    )
    assert ended.summary["eval_loss"] == pytest.approx(
        points(teacher.events)["eval/loss", UPDATES], rel=1e-4
    )


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("memory", "oom_host", "can't allocate memory"),
        ("device", "device_lost", "uncorrectable ECC error"),
        ("device memory", "oom_device", "has no memory left"),
        ("layers", "internal", "dropped different layers"),
        ("weights", "internal", r"differ in the weights after step \d+"),
    ],
)
def test_a_failure_of_one_process_ends_all_with_its_code(
    fault: str, code: str, words: str, corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> None:
    config = teacher_config(corpus, schedule=Schedule(batch_size=4, max_steps=30).model_dump())
    out = tmp_path / "out"
    start_s = time.monotonic()
    done = torchrun("ranks_train.py", str(tmp_path), fault, *arguments(config, out, cache_dir))
    assert done.returncode == 1
    assert time.monotonic() - start_s < 150
    (failed,) = (event for event in read_events(out) if isinstance(event, RunFailed))
    assert failed.code == code, failed
    assert re.search(words, failed.message)
    # All halve the parts together, and once.
    halved = [e for e in read_events(out) if isinstance(e, Log) and "at once: from" in e.message]
    assert len(halved) == (fault == "device memory")
    assert not (out / "model").exists()


def test_nan_is_one_failure_of_all(corpus: FileCorpus, cache_dir: Path, tmp_path: Path) -> None:
    config = teacher_config(corpus, optimiser={"weight_decay": 1e30})
    with launched(config, tmp_path, cache_dir) as process:
        assert process.wait(180) == 1
    (failed,) = (event for event in read_events(tmp_path) if isinstance(event, RunFailed))
    assert failed.code == "nan"


def test_what_they_say_to_each_other(tmp_path: Path) -> None:
    torchrun("ranks_talk.py", str(tmp_path))
    zero, one = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert zero["told"] == one["told"] == [{"rank": 0, "word": "Öl"}, {"rank": 1, "word": "Öl"}]
    assert zero["any"] == one["any"] == [False, True, True]
    assert zero["sum"] == one["sum"] == [0.1 + 0.2, 4.0]
    assert zero["added"] == one["added"]
    for mine, other, total in zip(zero["mine"], one["mine"], zero["added"], strict=True):
        if mine is None:
            assert total is None, "a layer that all have dropped has no gradient"
        else:
            expected = torch.tensor(mine) + torch.tensor(other)
            assert torch.equal(torch.tensor(total), expected)
    assert zero["one idle"] == one["one idle"]
    assert zero["one idle"][0] is not None
    assert zero["one idle"][2] is None
    for found in (zero, one):
        assert "dropped different layers" in found["different layers"]
        assert found["same weights"] == "accepted"
        assert "differ in weights" in found["different weights"]
    assert (tmp_path / "order").read_text() == "0 1 "
    assert sorted([zero["first to fail"], one["first to fail"]]) == [False, True]
    assert zero["noticed after_s"] < QUICKLY_S


# ------------------------------------------------------------------------------ who does what


def batch(*lengths: int) -> Batch:
    mask = np.zeros((len(lengths), max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return Batch(mask * np.arange(1, len(lengths) + 1)[:, None], mask, mask)


@pytest.mark.parametrize("max_tokens_per_microbatch", [1, 7, 16, 1000])
@pytest.mark.parametrize("multiple_of", [2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 13])
def test_equal_microbatches(max_tokens_per_microbatch: int, multiple_of: int, rows: int) -> None:
    whole = batch(*([8] * rows))
    parts = list(whole.microbatches(max_tokens_per_microbatch, multiple_of))
    assert np.array_equal(np.concatenate([part.ids for part in parts]), whole.ids)
    sizes = [len(part.ids) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) > 0
    assert len(parts) % multiple_of == 0 or len(parts) == rows
    assert all(part.num_tokens <= max_tokens_per_microbatch or len(part.ids) == 1 for part in parts)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("batches", [1, 2, 3, 4, 6])
def test_every_rank_gets_as_many_parts(world: int, batches: int) -> None:
    min_parts = Ranks(0, world).min_parts(batches)
    shares = [
        sum(Ranks(r, world).is_mine(turn) for turn in range(min_parts * batches))
        for r in range(world)
    ]
    assert len(set(shares)) == 1
    assert min_parts == 1 or batches % world


def test_devices_are_named_or_counted() -> None:
    assert process_count("auto", None) == 1
    assert process_count("cpu", 2) == 2
    assert process_count("cuda:0, cuda:1", None) == 2
    assert process_count("cpu,cpu", 2) == 2
    for device, devices in [("cuda:0", 2), ("cuda:0,cuda:0", None), ("cpu,cpu", 3)]:
        with pytest.raises(ConfigError):
            process_count(device, devices)
    assert TorchrunEnv(1, 2, 1).own("cuda:2, cuda:3") == "cuda:3"
    assert TorchrunEnv(1, 2, 1).own("cuda") == "cuda:1"
    assert TorchrunEnv(5, 8, 1).own("auto") == "auto:1"
    assert TorchrunEnv(1, 2, 1).own("cpu") == "cpu"
    with pytest.raises(ConfigError, match="start one each"):
        TorchrunEnv(2, 3, 2).own("cpu,cpu")
