"""The GPU path on tensors that hold CPU data and claim to be on a GPU, against the CPU's own.

An operation that mixes devices raises, and what would make the host wait for the GPU within an
step is counted: nothing may. What the kernels of a real GPU do cannot be seen here.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdcore.config import (
    DistillConfig,
    DistillLines,
    DistillLoss,
    DistillOptimiser,
    DistillSchedule,
    Evaluation,
    FileCorpus,
    FolderCheckpoint,
    Optimiser,
    PruneConfig,
    Reporting,
    RunConfig,
    Schedule,
    TeacherConfig,
)
from kdcore.events import Event, ListSink, Metrics, RunResult, RunStopped, parse_event
from kdcore.run import execute
from tests.fixtures.claimed_gpu.build import library
from tests.fixtures.configs import tiny_model, tiny_teacher
from tests.kdcore.conftest import write_text

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
FAMILIES = ("bert", "distilbert")
# Large, or Adam makes a whole step of a gradient that is zero but for rounding.
EPSILON = 1e-3
COMMON: dict[str, Any] = {
    "evaluation": Evaluation(every_steps=2, max_sequences=6),
    "reporting": Reporting(log_every_steps=1, checkpoint_every_s=0),
}

RAISES = frozenset(
    f"aten::{name}"
    for name in (
        *("cumsum", "put_", "histc", "bincount", "median", "kthvalue", "nll_loss_forward"),
        *("nll_loss2d_forward", "scatter_reduce", "embedding_bag", "_embedding_bag"),
    )
)
"""Operations that have no deterministic form on a GPU, and raise there."""


def teacher_of(corpus: FileCorpus, **changes: Any) -> TeacherConfig:
    config = COMMON | {
        "model": tiny_model(layers=3, dropout=0),
        "schedule": Schedule(batch_size=4, accumulation_steps=2, max_steps=3),
        "optimiser": Optimiser(learning_rate=1e-3, epsilon=EPSILON),
        "precision": "fp32",
        "seed": 0,
    }
    return tiny_teacher(corpus, **config | changes)


class Both:
    """Runs on the CPU and on the pretended GPU, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        write_text(folder / "train.txt", 80, seed=1)
        write_text(folder / "valid.txt", 20, seed=2)
        corpus = self._corpus = FileCorpus(
            path=str(folder / "train.txt"), validation_path=str(folder / "valid.txt")
        )
        self.folder, self.events = folder, dict[str, list[Event]]()
        self.found: dict[str, dict[str, Any]] = {}
        self._jobs: dict[str, dict[str, Any]] = {}

        bert = teacher_of(corpus)
        self._add("bert mlm", bert)
        self._add(
            "bert mlm, few labels", teacher_of(corpus, mask_rate=0.02), max_tokens_per_microbatch=32
        )
        for family in FAMILIES:
            pruned = PruneConfig(teacher=self._trained("bert mlm"), student_family=family)
            execute(pruned, folder / family, ListSink(), device="cpu")
        self._add("distilbert distil", self._distil("bert mlm", "distilbert"))
        self._add("bert distil", self._distil("distilbert distil", "bert", positions="masked"))
        only_mlm = {"alpha_ce": 0, "alpha_cos": 0, "alpha_mse": 0, "alpha_mlm": 1}
        self._add("distilbert mlm", self._distil("bert mlm", "distilbert", **only_mlm))
        in_bf16 = self._distil("bert mlm", "distilbert").model_copy(update={"precision": "bf16"})
        self._add("bf16", in_bf16)
        self._jobs["auto"] = self._job("auto", in_bf16.model_copy(update={"precision": "auto"}))
        self._jobs["stopped"] = self._job("resumed", bert) | {"stop_after": 2}
        self._jobs["resumed"] = self._job("resumed", bert)
        self._on_gpu()

    def _trained(self, name: str) -> FolderCheckpoint:
        return FolderCheckpoint(path=str(self.folder / f"cpu {name}" / "model"))

    def _distil(self, teacher: str, student: str, **loss: Any) -> DistillConfig:
        return DistillConfig(
            teacher=self._trained(teacher),
            student=FolderCheckpoint(path=str(self.folder / student / "model")),
            corpus=self._corpus,
            lines=DistillLines(min_tokens=5),
            loss=DistillLoss(
                **({"alpha_ce": 5, "alpha_mlm": 2, "alpha_cos": 1, "alpha_mse": 0.5} | loss)
            ),
            schedule=DistillSchedule(batch_size=4, max_steps=3),
            optimiser=DistillOptimiser(learning_rate=1e-3, epsilon=EPSILON),
            precision="fp32",
            **COMMON,
        )

    def _job(self, name: str, config: RunConfig) -> dict[str, Any]:
        return {"config": config.model_dump(mode="json"), "folder": str(self.folder / name)}

    def _add(self, name: str, config: RunConfig, **how: int) -> None:
        sink = ListSink()
        cache = self.folder / "cache"
        execute(config, self.folder / f"cpu {name}", sink, cache_dir=cache, device="cpu")
        self.events[name] = sink.events
        self._jobs[name] = self._job(name, config) | how

    def _on_gpu(self) -> None:
        program = [sys.executable, "-m", "tests.kdcore.on_claimed_gpu", str(library())]
        done = subprocess.run(
            [*program, json.dumps(list(self._jobs.values()))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        lines = done.stdout.splitlines()
        self.found = dict(zip(self._jobs, map(json.loads, lines), strict=True))
        for found in self.found.values():
            found["events"] = [parse_event(line.encode()) for line in found["events"]]

    def weights(self, folder: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("both"))


def curves(events: list[Event]) -> dict[str, float]:
    """What is measured, held-out losses included, but for the time."""
    return {
        f"{name} {event.step}": value
        for event in events
        if isinstance(event, Metrics)
        for name, value in event.values.items()
        if name != "tokens_per_s"
    }


RUNS = [
    *(f"{family} {objective}" for family in FAMILIES for objective in ("mlm", "distil")),
    "bert mlm, few labels",
]


@pytest.mark.parametrize("name", RUNS)
def test_the_gpu_path_trains_as_the_cpu_does(both: Both, name: str) -> None:
    ours, theirs = curves(both.found[name]["events"]), curves(both.events[name])
    assert "eval/loss 3" in theirs
    assert ours == pytest.approx(theirs, rel=2e-4, abs=1e-6)
    weights = both.weights(name)
    for parameter, expected in both.weights(f"cpu {name}").items():
        torch.testing.assert_close(weights[parameter], expected, rtol=1e-3, atol=2e-5)


def test_the_gpu_path_trains_in_bf16(both: Both) -> None:
    """Autocast decides differently on a GPU; so only about the same."""
    ours, theirs = curves(both.found["bf16"]["events"]), curves(both.events["bf16"])
    assert ours == pytest.approx(theirs, rel=0.05, abs=0.02)
    (result,) = (e for e in both.found["auto"]["events"] if isinstance(e, RunResult))
    assert result.summary["precision"] == "bf16"


@pytest.mark.parametrize("name", [*RUNS, "bf16"])
def test_within_a_step_the_host_never_waits(both: Both, name: str) -> None:
    """Or it would not have the next work ready when the GPU has done this."""
    assert both.found[name]["waits"] == {}
    assert "aten::_local_scalar_dense" in both.found[name]["operations"], "to log, it must"


@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_computes_deterministically(both: Both, name: str) -> None:
    found = both.found[name]
    assert found["deterministic"] == 2, "an operation that cannot be raises"
    assert not RAISES & set(found["operations"])
    assert {"aten::bmm", "aten::_fused_adamw_"} <= set(found["operations"])


def test_a_stopped_run_resumes_bit_for_bit(both: Both) -> None:
    (stopped,) = (e for e in both.found["stopped"]["events"] if isinstance(e, RunStopped))
    assert stopped.step == 2
    whole, resumed = both.weights("bert mlm"), both.weights("resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
