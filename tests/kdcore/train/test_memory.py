"""Trainings whose device has less memory than was thought, or less than before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import kdcore.device
import kdcore.train.loop
import kdcore.train.trainer
from kdcore.config import (
    FileCorpus,
    Reporting,
    Schedule,
    TeacherConfig,
    WordPieceTokenizer,
)
from kdcore.data.batching import Batch
from kdcore.distributed.process_group import Ranks
from kdcore.errors import DeviceOutOfMemory
from kdcore.events import ListSink, Log
from kdcore.loss.objectives import Losses, MlmObjective
from kdcore.run import execute
from tests.fixtures.configs import tiny_model

PARTS = 64
"""Tokens that go through the model at once: two sequences, half a batch."""


@pytest.fixture
def config(corpus: FileCorpus) -> TeacherConfig:
    return TeacherConfig(
        model=tiny_model(layers=1, hidden_size=16, dropout=0.2),
        corpus=corpus,
        tokenizer=WordPieceTokenizer(vocab_size=300),
        seq_len=32,
        schedule=Schedule(batch_size=4, max_steps=4),
        reporting=Reporting(log_every_steps=1, checkpoint_every_s=0),
        precision="fp32",
    )


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kdcore.device._TOKENS_AT_ONCE, "cpu", PARTS)


def memory_for(tokens: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device without memory for larger parts; returns the sizes of the parts that were tried."""
    tried: list[int] = []
    plain = MlmObjective.losses

    def losses(self: MlmObjective, part: Batch, *more: Any) -> Losses:
        tried.append(part.num_tokens)
        if part.num_tokens > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return plain(self, part, *more)

    monkeypatch.setattr(MlmObjective, "losses", losses)
    return tried


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def messages(sink: ListSink) -> str:
    return "\n".join(event.message for event in sink.of_type(Log))


def test_without_memory_a_step_is_repeated_in_halves(
    config: TeacherConfig,
    cache_dir: Path,
    tmp_path: Path,
    at_once: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as small:
        small.setitem(kdcore.device._TOKENS_AT_ONCE, "cpu", PARTS // 2)
        execute(config, tmp_path / "small", ListSink(), cache_dir=cache_dir, device="cpu")
    tried, sink = memory_for(PARTS // 2, monkeypatch), ListSink()
    execute(config, tmp_path / "halved", sink, cache_dir=cache_dir, device="cpu")
    assert tried == [PARTS, *[PARTS // 2] * 4 * config.schedule.max_steps]
    assert "no memory for 64 tokens at once: from step 1 on 32" in messages(sink)
    assert "no longer bit-for-bit reproducible" in messages(sink)
    # Nothing of the failed step is left: as if the microbatches had been small before.
    ours, theirs = weights(tmp_path / "halved"), weights(tmp_path / "small")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    saved = sorted((tmp_path / "halved" / "checkpoints").glob("step-*/state.json"))
    assert '"tokens_at_once": 32' in saved[-1].read_text()


def test_it_is_halved_once(
    config: TeacherConfig,
    cache_dir: Path,
    tmp_path: Path,
    at_once: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = memory_for(0, monkeypatch)
    with pytest.raises(DeviceOutOfMemory, match="use a smaller model"):
        execute(config, tmp_path, ListSink(), cache_dir=cache_dir, device="cpu")
    assert tried == [PARTS, PARTS // 2]


def test_every_process_repeats_what_one_had_no_memory_for(
    config: TeacherConfig, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OtherLacksOnce(Ranks):
        asked = 0

        def any_rank(self, mine: bool) -> bool:
            OtherLacksOnce.asked += 1
            return mine or OtherLacksOnce.asked == 2  # first of all, whether to stop

    sink = ListSink()
    execute(config, tmp_path, sink, cache_dir=cache_dir, device="cpu", ranks=OtherLacksOnce())
    assert "the device of another process has no memory left" in messages(sink)


@pytest.mark.parametrize(("share", "fitting"), [(0.9, 64), (0.5, 32)])
def test_a_resumed_training_takes_what_still_fits(
    config: TeacherConfig,
    cache_dir: Path,
    tmp_path: Path,
    at_once: None,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    fitting: int,
) -> None:
    """On the same device with a little less memory nothing changes, on a fuller one it does."""

    def pick(_shape: object, _device: object, of_free: float = 0.5) -> int:
        # The first time there was room for PARTS exactly.
        room = PARTS * (1.0 if first else share) * of_free / 0.5
        return 1 << (int(room).bit_length() - 1)

    monkeypatch.setattr(kdcore.train.trainer, "pick_max_tokens_per_microbatch", pick)
    first, sink = True, ListSink()
    stop = iter([False, False, True])
    execute(config, tmp_path, sink, lambda: next(stop), cache_dir, "cpu")
    first = False
    execute(config, tmp_path, sink, cache_dir=cache_dir, device="cpu")
    said = "64 tokens went through the model at once so far, now 32"
    assert (said in messages(sink)) == (fitting < PARTS)
    saved = sorted((tmp_path / "checkpoints").glob("step-*/state.json"))
    assert f'"tokens_at_once": {fitting}' in saved[-1].read_text()
