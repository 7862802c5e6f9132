"""Resumed from every step of a short run: the same weights, metrics and results, bit for bit.

With all that draws random numbers or carries state at once: dropped layers, dropout, accumulation
with a last part that is short, warm-up, weight decay, several passes over the text.
"""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kdcore.train.trainer
from kdcore.config import (
    DistillConfig,
    DistillLines,
    DistillOptimiser,
    DistillSchedule,
    Evaluation,
    FileCorpus,
    FolderCheckpoint,
    Optimiser,
    PruneConfig,
    Reporting,
    Schedule,
    TeacherConfig,
)
from kdcore.data.dataset import Text
from kdcore.data.text_facts import TextFacts
from kdcore.errors import CheckpointError
from kdcore.events import (
    CheckpointSaved,
    Event,
    ListSink,
    Log,
    Metrics,
    Progress,
    RunResult,
    RunStopped,
)
from kdcore.run import execute
from kdcore.train.context import Completed, Stopped
from tests.fixtures.configs import tiny_model, tiny_teacher
from tests.fixtures.events import read_events

pytestmark = pytest.mark.integration

UPDATES = 6
OWN_TIME = ("tokens_per_s", "elapsed_s")
"""What no two executions share."""
Config = TeacherConfig | DistillConfig


class Keeper(ListSink):
    """Keeps a copy of every checkpoint that is saved in `run`."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self._run = run
        self.kept = run / "kept"

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, CheckpointSaved):
            shutil.copytree(self._run / str(event.path), self.kept / str(event.step))


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory: pytest.TempPathFactory, corpus: FileCorpus) -> FileCorpus:
    """So little text that a few steps are several passes over it."""
    path = tmp_path_factory.mktemp("corpus") / "train.txt"
    lines = Path(corpus.path).read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:40]), encoding="utf-8")
    return FileCorpus(path=str(path), validation_path=corpus.validation_path)


def teacher_config(corpus: FileCorpus, precision: str) -> TeacherConfig:
    return tiny_teacher(
        corpus,
        layer_drop=0.4,
        model=tiny_model(layers=3, dropout=0.2),
        schedule=Schedule(epochs=99, batch_size=6, accumulation_steps=3, max_steps=UPDATES),
        optimiser=Optimiser(learning_rate=2e-3, weight_decay=0.01, warmup_fraction=0.3),
        evaluation=Evaluation(every_steps=3, max_sequences=5),
        reporting=Reporting(log_every_steps=3, checkpoint_every_s=0),
        precision=precision,
        seed=11,
    )


@pytest.fixture(scope="module")
def models(
    small_corpus: FileCorpus, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A teacher and its pruned student."""
    teacher, student = tmp_path_factory.mktemp("teacher"), tmp_path_factory.mktemp("student")
    config = teacher_config(small_corpus, "fp32")
    execute(config, teacher, ListSink(), cache_dir=cache_dir, device="cpu")
    cut = PruneConfig(teacher=FolderCheckpoint(path=str(teacher / "model")))
    execute(cut, student, ListSink(), device="cpu")
    return teacher / "model", student / "model"


@pytest.fixture(params=["teacher", "distill"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["fp32", "bf16"])
def config(
    request: pytest.FixtureRequest, kind: str, small_corpus: FileCorpus, models: tuple[Path, Path]
) -> Config:
    if kind == "teacher":
        return teacher_config(small_corpus, request.param)
    return DistillConfig(
        teacher=FolderCheckpoint(path=str(models[0])),
        student=FolderCheckpoint(path=str(models[1])),
        corpus=small_corpus,
        lines=DistillLines(min_tokens=5),
        schedule=DistillSchedule(epochs=99, batch_size=6, accumulation_steps=3, max_steps=UPDATES),
        optimiser=DistillOptimiser(learning_rate=1e-3, weight_decay=0.01, warmup_fraction=0.3),
        evaluation=Evaluation(every_steps=3, max_sequences=5),
        reporting=Reporting(log_every_steps=3, checkpoint_every_s=0),
        precision=request.param,
        seed=12,
    )


@pytest.fixture
def whole(config: Config, cache_dir: Path, tmp_path: Path) -> tuple[Path, Keeper]:
    """The run that was never stopped."""
    folder = tmp_path / "whole"
    keeper = Keeper(folder)
    ended = execute(config, folder, keeper, cache_dir=cache_dir, device="cpu")
    assert isinstance(ended, Completed)
    return folder, keeper


def stopped_at(step: int, whole: tuple[Path, Keeper], folder: Path) -> Path:
    """The folder of a run that has got no further than its checkpoint of `step`."""
    shutil.copytree(whole[1].kept / str(step), folder / "checkpoints" / f"step-{step:08d}")
    for start_eval in whole[0].glob("start_eval.json"):
        shutil.copy(start_eval, folder)
    return folder


def points(events: list[Event], after: int) -> list[tuple[int, str, float]]:
    return [
        (event.step, name, value)
        for event in events
        if isinstance(event, Metrics) and event.step > after
        for name, value in event.values.items()
        if name not in OWN_TIME
    ]


def assert_same(
    ours: Path, events: list[Event], whole: tuple[Path, Keeper], after: int, precision: str
) -> None:
    theirs = load_file(whole[0] / "model" / "model.safetensors")
    weights = load_file(ours / "model" / "model.safetensors")
    assert weights.keys() == theirs.keys()
    assert all(torch.equal(weights[name], theirs[name]) for name in theirs)
    assert points(events, after) == points(whole[1].events, after)
    # Its values are each execution's own, but no point may be missing.
    metrics = [event for event in events if isinstance(event, Metrics)]
    logged = {event.step for event in metrics if "loss" in event.values}
    rated = {event.step for event in metrics if "tokens_per_s" in event.values}
    assert rated == logged == {step for step in (3, UPDATES) if step > after}
    (summary,) = [event.summary for event in events if isinstance(event, RunResult)]
    expected = whole[1].of_type(RunResult)[0].summary
    assert expected["precision"] == precision
    for name in expected.keys() - set(OWN_TIME):
        assert summary[name] == expected[name], name


def test_every_step_resumes_bit_for_bit(
    config: Config, whole: tuple[Path, Keeper], cache_dir: Path, tmp_path: Path
) -> None:
    assert sorted(int(path.name) for path in whole[1].kept.iterdir()) == list(range(1, UPDATES))
    for step in range(1, UPDATES):
        folder, sink = stopped_at(step, whole, tmp_path / str(step)), ListSink()
        execute(config, folder, sink, cache_dir=cache_dir, device="cpu")
        said = [event.message for event in sink.of_type(Log)]
        assert f"resuming from step {step}" in said
        assert_same(folder, sink.events, whole, step, config.precision)


@pytest.mark.parametrize(
    ("kind", "config"), [("teacher", "bf16"), ("distill", "fp32")], indirect=True
)
def test_another_process_goes_on_bit_for_bit(
    config: Config, whole: tuple[Path, Keeper], cache_dir: Path, tmp_path: Path
) -> None:
    step = UPDATES // 2
    folder = stopped_at(step, whole, tmp_path / "other")
    (folder / "config.json").write_text(config.model_dump_json())
    subprocess.run(
        [sys.executable, "-m", "kdcore", "run", "--config", str(folder / "config.json"),
         "--out", str(folder), "--cache", str(cache_dir), "--device", "cpu", "--quiet"],
        check=True,
        timeout=200,
    )  # fmt: skip
    assert_same(folder, read_events(folder), whole, step, config.precision)


class StopsWhileEvaluating(ListSink):
    """Asks for a stop as soon as the evaluation begins that follows so many others."""

    def __init__(self, others: int) -> None:
        super().__init__()
        self._others = others
        self._asked = False

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, Progress) and event.phase == "evaluating":
            self._asked = self._others == 0
            self._others -= 1

    def should_stop(self) -> bool:
        return self._asked


@pytest.mark.parametrize("config", ["fp32"], indirect=True)
def test_a_stop_does_not_wait_for_an_evaluation_and_loses_nothing(
    config: Config, whole: tuple[Path, Keeper], cache_dir: Path, tmp_path: Path
) -> None:
    """A stop does not wait for the evaluation of a whole split."""
    steps = [*([0] if isinstance(config, DistillConfig) else []), UPDATES // 2, UPDATES]
    for number, step in enumerate(steps):
        folder, first, sink = tmp_path / str(step), StopsWhileEvaluating(number), ListSink()
        ended = execute(
            config,
            folder,
            first,
            cache_dir=cache_dir,
            device="cpu",
            should_stop=first.should_stop,
        )
        assert ended == Stopped(step)
        assert first.of_type(RunStopped)[0].step == step
        evaluated = [e.step for e in first.of_type(Metrics) if "eval/loss" in e.values]
        assert evaluated == steps[:number]
        execute(config, folder, sink, cache_dir=cache_dir, device="cpu")
        assert f"resuming from step {step}" in [e.message for e in sink.of_type(Log)]
        # Its curve at `step` was told before the stop, but for what was not evaluated.
        told = first.of_type(Metrics)
        assert_same(folder, [*told, *sink.events], whole, 0, config.precision)


@pytest.mark.parametrize(("line", "goes_on"), [("the cat saw dogs", True), ("a [MASK]", False)])
def test_what_release_0_1_began_goes_on_where_the_text_is_still_read_the_same(
    small_corpus: FileCorpus,
    cache_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    goes_on: bool,
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(Path(small_corpus.path).read_text(encoding="utf-8") + line + "\n")
    corpus = FileCorpus(path=str(path), validation_path=small_corpus.validation_path)
    config = teacher_config(corpus, "fp32")
    identity = kdcore.train.trainer._identity

    def of_0_1(config: Config, text: Text, inputs: list[Path | None]) -> str:
        return identity(config, replace(text, train=replace(text.train, facts=TextFacts())), inputs)

    stops = iter([False, False])
    with monkeypatch.context() as old:
        old.setattr(kdcore.train.trainer, "_identity", of_0_1)
        execute(config, tmp_path, ListSink(), lambda: next(stops, True), cache_dir, "cpu")
    if goes_on:
        execute(config, tmp_path, ListSink(), cache_dir=cache_dir, device="cpu")
    else:
        with pytest.raises(CheckpointError, match="other text"):
            execute(config, tmp_path, ListSink(), cache_dir=cache_dir, device="cpu")
