"""Whole runs on tiny models: teacher, prune and distil; stop, resume, and what comes out."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, BertModel, pipeline

from kdcore.config import (
    DistillConfig,
    DistillLines,
    DistillOptimiser,
    DistillSchedule,
    Evaluation,
    FileCorpus,
    FolderCheckpoint,
    FreshStudent,
    HubCheckpoint,
    HubCorpus,
    HubTokenizer,
    Optimiser,
    PruneConfig,
    Reporting,
    RunCheckpoint,
    Schedule,
    TeacherConfig,
)
from kdcore.data.tokenizers import tokens_from_folder
from kdcore.errors import CheckpointError, ConfigError, DataError, HubUnavailable, NonFiniteLoss
from kdcore.events import (
    CheckpointSaved,
    ListSink,
    Log,
    Metrics,
    Progress,
    RunResult,
    RunStarted,
    RunStopped,
)
from kdcore.figures import CURVES, RESULTS
from kdcore.files import sha256_of
from kdcore.inputs import Inputs
from kdcore.model.bert import NOTES_FILE
from kdcore.run import execute
from kdcore.train.context import Completed
from tests.fixtures.configs import tiny_model, tiny_teacher

pytestmark = pytest.mark.integration

EVERY_STEP = Reporting(log_every_steps=1, checkpoint_every_s=0)


def teacher_config(text: FileCorpus, **changes: object) -> TeacherConfig:
    return tiny_teacher(text, **{"reporting": Reporting(log_every_steps=2)} | changes)


def stop_after(steps: int, sink: ListSink) -> Callable[[], bool]:
    """Asks to stop after so many steps of this process."""
    return lambda: len(sink.of_type(CheckpointSaved)) >= steps


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def teacher(
    corpus: FileCorpus, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ListSink]:
    folder, sink = tmp_path_factory.mktemp("teacher"), ListSink()
    ended = execute(teacher_config(corpus), folder, sink, cache_dir=cache_dir, device="cpu")
    assert isinstance(ended, Completed)
    return folder, sink


@pytest.fixture(scope="module")
def pruned(teacher: tuple[Path, ListSink], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned")
    config = PruneConfig(teacher=FolderCheckpoint(path=str(teacher[0] / "model")))
    execute(config, folder, ListSink(), device="cpu")
    return folder


def test_ids_of_a_server_are_resolved_by_inputs_and_stay_in_the_notes(
    teacher: tuple[Path, ListSink], pruned: Path, tmp_path: Path
) -> None:
    config = PruneConfig(teacher=RunCheckpoint(run_id="k3v9x2m4q8zt"))
    with pytest.raises(
        DataError, match=r"^teacher: run k3v9x2m4q8zt exists on a Halflayer server only"
    ):
        execute(config, tmp_path, ListSink(), device="cpu")
    sink, inputs = ListSink(), Inputs(teacher=teacher[0] / "model")
    execute(config, tmp_path, sink, device="cpu", inputs=inputs)
    assert sha256_of(tmp_path / "model" / "model.safetensors") == sha256_of(
        pruned / "model" / "model.safetensors"
    )
    for text in (
        (tmp_path / "model" / "README.md").read_text(),
        (tmp_path / "model" / NOTES_FILE).read_text(),
        sink.of_type(RunStarted)[0].model_dump_json(),
    ):
        assert "k3v9x2m4q8zt" in text
        assert str(teacher[0]) not in text


def test_a_folder_that_is_no_model_is_named_with_its_field(tmp_path: Path) -> None:
    config = PruneConfig(teacher=FolderCheckpoint(path=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"^teacher: .*nowhere holds no config\.json"):
        execute(config, tmp_path / "out", ListSink(), device="cpu")


def distill_config(teacher: Path, student: Path, corpus: FileCorpus) -> DistillConfig:
    return DistillConfig(
        teacher=FolderCheckpoint(path=str(teacher / "model")),
        student=FolderCheckpoint(path=str(student / "model")),
        corpus=corpus,
        lines=DistillLines(min_tokens=5),
        schedule=DistillSchedule(batch_size=8, accumulation_steps=3, max_steps=6),
        optimiser=DistillOptimiser(learning_rate=1e-3, weight_decay=0.01),
        reporting=Reporting(log_every_steps=2),
        seed=3,
    )


def test_teacher_result_loads_without_code_of_ours(teacher: tuple[Path, ListSink]) -> None:
    model = AutoModelForMaskedLM.from_pretrained(teacher[0] / "model")
    assert model.config.num_hidden_layers == 4
    fill = pipeline("fill-mask", model=str(teacher[0] / "model"))
    guesses = fill("the king [MASK] the city")
    assert len(guesses) == 5
    assert all(guess["token_str"] for guess in guesses)


def test_teacher_events(teacher: tuple[Path, ListSink]) -> None:
    sink = teacher[1]
    (started,) = sink.of_type(RunStarted)
    assert started.config["kind"] == "teacher"
    assert "torch" in started.versions
    metrics = [event for event in sink.of_type(Metrics) if "loss" in event.values]
    assert [event.step for event in metrics] == [2, 4, 6, 7]
    assert {"loss", "lr", "grad_norm", "layers_active"} <= metrics[0].values.keys()
    summary = sink.of_type(RunResult)[0].summary
    assert summary["steps"] == 7
    shape = sink.of_type(RunResult)[0].shape
    assert shape is not None
    assert shape.layers == 4
    logged = [event.values["loss"] * n for event, n in zip(metrics, (2, 2, 2, 1), strict=True)]
    assert math.isclose(summary["train_loss"], sum(logged) / 7, rel_tol=1e-12)
    assert summary["eval_perplexity"] == pytest.approx(math.exp(summary["eval_loss"]))
    assert sink.of_type(Progress)[-1].phase == "saving"
    shares = {name: value for name, value in summary.items() if name.endswith("_share")}
    assert len(shares) == 6
    assert set(shares.values()) == {0.0}
    assert (summary["documents"], summary["blank_documents"]) == (600, 0)
    card = (teacher[0] / "model" / "README.md").read_text()
    assert "| Unknown tokens (training) | 0 % |" in card
    said = [event.message for event in sink.of_type(Log)]
    assert "the held-out text: 0.00% of the tokens are unknown" in said


def test_manifest_covers_every_file(teacher: tuple[Path, ListSink]) -> None:
    folder = teacher[0]
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    files = {
        p.relative_to(folder / "model").as_posix(): sha256_of(p)
        for p in (folder / "model").rglob("*")
        if p.is_file()
    }
    assert listed == files
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= files.keys()


def test_evaluation_is_the_same_for_every_model_and_drops_no_layer(
    teacher: tuple[Path, ListSink], corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> None:
    """A distillation that changes nothing starts at the very loss that its teacher ended with."""
    everything = tmp_path / "everything"
    config = PruneConfig.model_validate(
        {
            "teacher": {"source": "folder", "path": str(teacher[0] / "model")},
            "layers": {"strategy": "first_k", "k": 4},
        }
    )
    execute(config, everything, ListSink(), device="cpu")
    sink = ListSink()
    one = distill_config(teacher[0], everything, corpus).model_copy(
        update={"schedule": DistillSchedule(batch_size=8, max_steps=1)}
    )
    execute(one, tmp_path / "distil", sink, cache_dir=cache_dir, device="cpu")
    start = sink.of_type(RunResult)[0].summary["start_eval_loss"]
    ended = teacher[1].of_type(RunResult)[0].summary["eval_loss"]
    assert start == pytest.approx(ended, rel=1e-5)


def test_teacher_learns(corpus: FileCorpus, cache_dir: Path, tmp_path: Path) -> None:
    config = teacher_config(
        corpus,
        layer_drop=0.1,
        model=tiny_model(layers=2, hidden_size=64, dropout=0.0),
        schedule=Schedule(batch_size=16, max_steps=250, epochs=99),
        optimiser=Optimiser(learning_rate=3e-3, warmup_fraction=0.1, beta2=0.98),
    )
    ended = execute(config, tmp_path, ListSink(), cache_dir=cache_dir, device="cpu")
    assert isinstance(ended, Completed)
    assert ended.summary["eval_loss"] < ended.summary["unigram_entropy"] - 0.4


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_teacher_resumes_bit_for_bit(
    corpus: FileCorpus, cache_dir: Path, tmp_path: Path, precision: str
) -> None:
    config = teacher_config(corpus, precision=precision, reporting=EVERY_STEP)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    sink = ListSink()
    execute(config, whole, sink, cache_dir=cache_dir, device="cpu")
    heard = []
    for _ in range(10):
        part = ListSink()
        ended = execute(config, parts, part, stop_after(2, part), cache_dir=cache_dir, device="cpu")
        heard += part.of_type(Metrics)
        if isinstance(ended, Completed):
            break
        assert part.of_type(RunStopped) == [RunStopped(step=ended.step)]
    assert isinstance(ended, Completed)
    ours, theirs = weights(parts), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def points(events: list[Metrics]) -> list[object]:
        return [
            (event.step, name, value)
            for event in events
            for name, value in event.values.items()
            if name != "tokens_per_s"
        ]

    assert points(heard) == points(sink.of_type(Metrics))
    assert ended.summary["train_loss"] == sink.of_type(RunResult)[0].summary["train_loss"]


def test_distil_resumes_bit_for_bit(
    teacher: tuple[Path, ListSink],
    pruned: Path,
    corpus: FileCorpus,
    cache_dir: Path,
    tmp_path: Path,
) -> None:
    config = distill_config(teacher[0], pruned, corpus).model_copy(update={"reporting": EVERY_STEP})
    execute(config, tmp_path / "whole", ListSink(), cache_dir=cache_dir, device="cpu")
    part = ListSink()
    execute(
        config, tmp_path / "parts", part, stop_after(3, part), cache_dir=cache_dir, device="cpu"
    )
    ended = execute(config, tmp_path / "parts", ListSink(), cache_dir=cache_dir, device="cpu")
    assert isinstance(ended, Completed)
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_another_run_in_the_same_folder_is_refused(
    corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> None:
    config, sink = teacher_config(corpus, reporting=EVERY_STEP), ListSink()
    execute(config, tmp_path, sink, stop_after(1, sink), cache_dir=cache_dir, device="cpu")
    other = config.model_copy(update={"seed": 99})
    with pytest.raises(CheckpointError, match="folder of its own"):
        execute(other, tmp_path, ListSink(), cache_dir=cache_dir, device="cpu")


def test_distil_result(
    teacher: tuple[Path, ListSink],
    pruned: Path,
    corpus: FileCorpus,
    cache_dir: Path,
    tmp_path: Path,
) -> None:
    sink = ListSink()
    config = distill_config(teacher[0], pruned, corpus)
    execute(config, tmp_path, sink, cache_dir=cache_dir, device="cpu")
    summary = sink.of_type(RunResult)[0].summary
    assert summary["role"] == "student"
    # Of 600 lines; the model reads 32 tokens, so that the longest are split in two.
    pieces = summary["lines"] + summary["lines_too_short"] + summary["lines_too_unknown"]
    assert pieces == 600 + summary["lines_split"] > 600
    words = f"distilling on {summary['lines']:,} lines; {summary['lines_too_short']:,} are left out"
    assert any(words in event.message for event in sink.of_type(Log))
    assert summary["layers"] == 2
    assert summary["layer_drop"] == 0.3
    points = [event.values for event in sink.of_type(Metrics) if "loss" in event.values]
    written = [
        *json.loads((teacher[0] / "model" / "halflayer.json").read_text())["summary"],
        *json.loads((pruned / "model" / "halflayer.json").read_text())["summary"],
        *summary,
    ]
    assert set(written) - {"shape", "report"} <= {each.name for each in RESULTS}
    curves = {
        name
        for each in (sink, teacher[1])
        for event in each.of_type(Metrics)
        for name in event.values
    }
    assert curves <= {each.name for each in CURVES}
    for values in points:
        weighted = 5 * values["loss/ce"] + 2 * values["loss/mlm"] + values["loss/cos"]
        assert values["loss"] == pytest.approx(weighted, rel=1e-6)
    fill = pipeline("fill-mask", model=str(tmp_path / "model"))
    assert len(fill("the king [MASK] the city")) == 5


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_positions_do_not_move(
    teacher: tuple[Path, ListSink],
    pruned: Path,
    corpus: FileCorpus,
    cache_dir: Path,
    tmp_path: Path,
    frozen: bool,
) -> None:
    config = distill_config(teacher[0], pruned, corpus).model_copy(
        update={"freeze_positions": frozen}
    )
    execute(config, tmp_path, ListSink(), cache_dir=cache_dir, device="cpu")
    name = "distilbert.embeddings.position_embeddings.weight"
    before, after = weights(pruned)[name], weights(tmp_path)[name]
    assert torch.equal(before, after) is frozen


def test_last_partial_accumulation_is_stepped(
    teacher: tuple[Path, ListSink],
    pruned: Path,
    corpus: FileCorpus,
    cache_dir: Path,
    tmp_path: Path,
) -> None:
    # 600 lines in batches of 70 are 9 batches: two steps of 4 and one of 1.
    config = distill_config(teacher[0], pruned, corpus).model_copy(
        update={"schedule": DistillSchedule(batch_size=70, accumulation_steps=4)}
    )
    sink = ListSink()
    execute(config, tmp_path, sink, cache_dir=cache_dir, device="cpu")
    assert sink.of_type(RunResult)[0].summary["steps"] == 3


def test_fresh_student(
    teacher: tuple[Path, ListSink], corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> None:
    config = distill_config(teacher[0], teacher[0], corpus).model_copy(
        update={"student": FreshStudent(layers=1, family="bert")}
    )
    ended = execute(config, tmp_path, ListSink(), cache_dir=cache_dir, device="cpu")
    assert isinstance(ended, Completed)
    assert ended.summary["layers"] == 1


def test_loss_that_explodes_names_step_and_batch(
    corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> None:
    config = teacher_config(
        corpus,
        schedule=Schedule(batch_size=4, max_steps=40),
        optimiser=Optimiser(learning_rate=1.0, clip_norm=None, epsilon=1e-30),
    )
    broken = config.model_copy(
        update={"optimiser": config.optimiser.model_copy(update={"learning_rate": 1e30})}
    )
    with pytest.raises(NonFiniteLoss, match=r"step \d+ .*batches") as caught:
        execute(broken, tmp_path, ListSink(), cache_dir=cache_dir, device="cpu")
    assert caught.value.code == "nan"
    assert not (tmp_path / "model").exists()


def test_periodic_evaluation(corpus: FileCorpus, cache_dir: Path, tmp_path: Path) -> None:
    config = teacher_config(corpus, evaluation=Evaluation(every_steps=3, max_sequences=5))
    sink = ListSink()
    execute(config, tmp_path, sink, cache_dir=cache_dir, device="cpu")
    evaluated = [e.step for e in sink.of_type(Metrics) if "eval/loss" in e.values]
    assert evaluated == [3, 6, 7]


def test_a_teacher_goes_on_from_a_pretrained_folder(
    teacher: tuple[Path, ListSink], corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> None:
    config = teacher_config(
        corpus,
        model=FolderCheckpoint(path=str(teacher[0] / "model")).model_dump(),
        tokenizer={"source": "model"},
    )
    ended = execute(config, tmp_path, ListSink(), cache_dir=cache_dir, device="cpu")
    assert isinstance(ended, Completed)
    assert ended.summary["layers"] == 4


@pytest.fixture(scope="module")
def headless(teacher: tuple[Path, ListSink], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher's encoder, as `BertModel` saves it, beside its tokenizer."""
    folder = tmp_path_factory.mktemp("headless") / "model"
    shutil.copytree(teacher[0] / "model", folder)
    BertModel.from_pretrained(folder).save_pretrained(folder)
    return folder.parent


def test_a_teacher_starts_from_an_encoder_without_a_head(
    headless: Path, corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> None:
    config = teacher_config(
        corpus,
        model=FolderCheckpoint(path=str(headless / "model")).model_dump(),
        tokenizer={"source": "model"},
        schedule=Schedule(batch_size=4, max_steps=2),
    )
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        sink = ListSink()
        execute(config, folder, sink, cache_dir=cache_dir, device="cpu")
    fresh = sink.of_type(RunResult)[0].summary["fresh_tensors"]
    assert len(fresh) == 5
    (warning,) = [event for event in sink.of_type(Log) if event.level == "warning"]
    assert "no MLM head, which starts at random" in warning.message
    card = (folders[1] / "model" / "README.md").read_text()
    for name in fresh:
        assert name.startswith("cls.predictions.")
        assert name in warning.message
        assert f"`{name}`" in card
    notes = json.loads((folders[1] / "model" / "halflayer.json").read_text())
    assert notes["summary"]["fresh_tensors"] == fresh
    one, two = map(weights, folders)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize("role", ["prune", "teacher", "student"])
def test_an_encoder_without_a_head_is_nothing_to_learn_from(
    role: str,
    teacher: tuple[Path, ListSink],
    headless: Path,
    corpus: FileCorpus,
    tmp_path: Path,
) -> None:
    config: PruneConfig | DistillConfig = PruneConfig(
        teacher=FolderCheckpoint(path=str(headless / "model"))
    )
    if role != "prune":
        folders = (headless, teacher[0]) if role == "teacher" else (teacher[0], headless)
        config = distill_config(*folders, corpus)
    field = "student" if role == "student" else "teacher"
    with pytest.raises(DataError, match=rf"^{field}: .*without its masked-language.* Train a head"):
        execute(config, tmp_path, ListSink(), cache_dir=tmp_path / "cache", device="cpu")


def test_a_checkpoint_that_is_not_finite_is_not_blamed_on_the_training(
    teacher: tuple[Path, ListSink], corpus: FileCorpus, tmp_path: Path
) -> None:
    shutil.copytree(teacher[0] / "model", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["bert.embeddings.LayerNorm.bias"][3] = math.nan
    save_file(tensors, path, metadata={"format": "pt"})
    config = teacher_config(
        corpus,
        model=FolderCheckpoint(path=str(tmp_path / "model")).model_dump(),
        tokenizer={"source": "model"},
    )
    with pytest.raises(DataError, match=r"^model: .*bert\.embeddings\.LayerNorm\.bias"):
        execute(config, tmp_path / "out", ListSink(), cache_dir=tmp_path / "cache", device="cpu")


def test_a_config_without_model_type(teacher: tuple[Path, ListSink], tmp_path: Path) -> None:
    """The tokenizer is found as well."""
    shutil.copytree(teacher[0] / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    del config["model_type"]
    path.write_text(json.dumps(config))
    options = PruneConfig(teacher=FolderCheckpoint(path=str(tmp_path / "model")))
    ended = execute(options, tmp_path / "out", ListSink(), device="cpu")
    assert isinstance(ended, Completed)
    assert ended.summary["layers"] == 2


def test_random_tensors_of_a_pruned_student_are_on_its_card(
    teacher: tuple[Path, ListSink], tmp_path: Path
) -> None:
    config = PruneConfig(
        teacher=FolderCheckpoint(path=str(teacher[0] / "model")), copy_head_transform=False
    )
    execute(config, tmp_path, ListSink(), device="cpu")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Randomly initialised" in card
    assert "`vocab_transform.weight`" in card


@pytest.mark.parametrize("kind", ["prune", "distill"])
def test_a_student_with_a_random_head_is_trained_before_it_teaches(
    kind: str, teacher: tuple[Path, ListSink], corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> None:
    start = FolderCheckpoint(path=str(teacher[0] / "model"))
    config = PruneConfig(teacher=start, copy_head_transform=False)
    execute(config, tmp_path / "pruned", ListSink(), device="cpu")
    trained = distill_config(teacher[0], tmp_path / "pruned", corpus)
    execute(trained, tmp_path / "trained", ListSink(), cache_dir=cache_dir, device="cpu")

    def teach(folder: Path) -> None:
        source = FolderCheckpoint(path=str(folder / "model"))
        config: PruneConfig | DistillConfig = PruneConfig(teacher=source)
        if kind == "distill":
            config = distill_config(folder, tmp_path / "pruned", corpus)
        execute(config, folder / kind, ListSink(), cache_dir=cache_dir, device="cpu")

    with pytest.raises(DataError, match=r"^teacher: .*random MLM head.*vocab_transform\.weight"):
        teach(tmp_path / "pruned")
    teach(tmp_path / "trained")


def test_another_tokenizer_than_the_checkpoints_own_is_refused(
    teacher: tuple[Path, ListSink], corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> None:
    """As large, every entry known, each embedding another word's."""
    start, shuffled, sink = tmp_path / "start", tmp_path / "shuffled", ListSink()
    shutil.copytree(teacher[0] / "model", start)
    shuffled.mkdir()
    vocabulary = tokens_from_folder(start).hf.get_vocab()
    entries = sorted(vocabulary, key=vocabulary.__getitem__)
    (shuffled / "vocab.txt").write_text("\n".join([*entries[:5], *entries[:4:-1]]))
    config = teacher_config(
        corpus,
        model=FolderCheckpoint(path=str(start)).model_dump(),
        tokenizer={"source": "folder", "path": str(shuffled)},
    )
    with pytest.raises(ConfigError, match="trained with another tokenizer") as caught:
        execute(config, tmp_path / "out", sink, cache_dir=cache_dir, device="cpu")
    assert caught.value.field == ("tokenizer",)
    # The same one from elsewhere is as good as the checkpoint's own.
    (shuffled / "vocab.txt").write_text("\n".join(entries))
    same = execute(config, tmp_path / "same", sink, cache_dir=cache_dir, device="cpu")
    assert isinstance(same, Completed)
    assert not [e for e in sink.of_type(Log) if "cannot be checked" in e.message]
    # Without files to compare, only the sizes can be: that is said.
    for file in start.glob("tokenizer*"):
        file.unlink()
    execute(config, tmp_path / "unknown", sink, cache_dir=cache_dir, device="cpu")
    [warning] = [e for e in sink.of_type(Log) if "cannot be checked" in e.message]
    assert warning.level == "warning"


def test_short_held_out_text_is_called_so(cache_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the king and the queen\n" * 100)
    (tmp_path / "b.txt").write_text("the king\n")
    text = FileCorpus(path=str(tmp_path / "a.txt"), validation_path=str(tmp_path / "b.txt"))
    with pytest.raises(DataError, match="the held-out text has 4 tokens, fewer than one sequence"):
        execute(teacher_config(text), tmp_path / "out", ListSink(), cache_dir=cache_dir)


def test_text_without_lines_to_distil_is_refused_before_the_teacher_trains(
    cache_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "data.txt"
    path.write_text("the king\nqueen and king\n" * 300)
    text = FileCorpus(path=str(path), label="my short lines.txt")
    config = teacher_config(text, distil_lines={"min_tokens": 12})
    sink = ListSink()
    with pytest.raises(DataError, match=r"the distillation after .*\(570 are too short, 0 hold"):
        execute(config, tmp_path / "out", sink, cache_dir=cache_dir, device="cpu")
    assert not [event for event in sink.of_type(Metrics) if "loss" in event.values]
    fine = teacher_config(text, distil_lines={"min_tokens": 4})
    ended = execute(fine, tmp_path / "fine", ListSink(), cache_dir=cache_dir)
    assert isinstance(ended, Completed)


def test_a_file_is_called_by_the_name_that_its_user_knows(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("one line")
    text = FileCorpus(path=str(path), label="my letters.txt")
    with pytest.raises(DataError, match=r"^my letters\.txt holds a single document"):
        execute(teacher_config(text), tmp_path / "out", ListSink(), device="cpu")
    path.write_bytes(b"one\ntw\xff\n")
    with pytest.raises(DataError, match=r"^my letters\.txt is not UTF-8"):
        execute(teacher_config(text), tmp_path / "out", ListSink(), device="cpu")


def test_what_old_checkpoints_were_made_of_is_still_called_the_same() -> None:
    """A new field must not enter stored configs, of which checkpoints keep a fingerprint."""
    assert "distil_lines" not in TeacherConfig().model_dump(mode="json")


def test_a_teacher_must_be_a_bert(pruned: Path, corpus: FileCorpus, tmp_path: Path) -> None:
    config = teacher_config(
        corpus,
        model=FolderCheckpoint(path=str(pruned / "model")).model_dump(),
        tokenizer={"source": "model"},
    )
    with pytest.raises(ConfigError, match="distilbert"):
        execute(config, tmp_path, ListSink(), cache_dir=tmp_path / "cache", device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"corpus": HubCorpus().model_dump()},
        {"tokenizer": HubTokenizer().model_dump()},
        {"model": HubCheckpoint().model_dump(), "tokenizer": {"source": "model"}},
    ],
)
def test_the_hub_fails_fast_and_says_what_to_do(
    corpus: FileCorpus,
    tmp_path: Path,
    changes: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A closed port of this machine: the same everywhere, with or without network.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnavailable, match="cannot be reached"):
        execute(teacher_config(corpus, **changes), tmp_path, ListSink(), device="cpu")


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    config = PruneConfig(teacher=FolderCheckpoint(path=str(tmp_path)))
    with pytest.raises(DataError, match=r"config\.json"):
        execute(config, tmp_path / "out", ListSink(), device="cpu")


def test_unigram_bias_starts_at_the_word_frequencies(
    corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> None:
    """Before it has learnt anything, the model is as good as knowing frequencies only."""
    scratch = teacher_config(corpus).model.model_dump()
    config = teacher_config(
        corpus,
        model=scratch | {"unigram_bias": True},
        optimiser=Optimiser(learning_rate=1e-9),
        schedule=Schedule(batch_size=4, max_steps=1),
    )
    ended = execute(config, tmp_path, ListSink(), cache_dir=cache_dir, device="cpu")
    assert isinstance(ended, Completed)
    assert ended.summary["eval_loss"] == pytest.approx(ended.summary["unigram_entropy"], abs=0.1)
