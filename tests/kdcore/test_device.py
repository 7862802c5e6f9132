"""What is asked of GPUs; torch's answers are those of machines that are not at hand."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kdcore.config import FileCorpus, Schedule, TeacherConfig, WordPieceTokenizer
from kdcore.device import emulates_bf16, pick_device, pick_precision, use_device
from kdcore.events import ListSink, Log
from kdcore.run import execute
from tests.fixtures.configs import tiny_model

TURING, AMPERE = torch.device("cuda:0"), torch.device("cuda:1")


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.device]]:
    """The first does not support bf16, the second does; yields which one is current."""
    current = [TURING]

    @contextmanager
    def device(which: torch.device) -> Iterator[None]:
        before, current[0] = current[0], which
        yield
        current[0] = before

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or current[0] == AMPERE

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "set_device", lambda which: current.insert(0, which))
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    yield current
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def test_precision_is_that_of_the_card_and_not_of_the_first_one(
    two_cards: list[torch.device],
) -> None:
    assert [pick_precision("auto", card) for card in (TURING, AMPERE)] == ["fp32", "bf16"]
    assert [emulates_bf16(card) for card in (TURING, AMPERE)] == [True, False]
    assert pick_precision("bf16", TURING) == "bf16", "who asks for it gets it, and is told"


def test_the_card_becomes_the_current_one_and_computes_deterministically(
    two_cards: list[torch.device],
) -> None:
    assert pick_device("cuda") == TURING, "with its number, which torch wants"
    use_device(pick_device("auto:1"))
    assert two_cards[0] == AMPERE
    assert torch.get_deterministic_debug_mode() == 2
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_on_the_processor_nothing_is_changed() -> None:
    use_device(torch.device("cpu"))
    assert torch.get_deterministic_debug_mode() == 0


@pytest.fixture
def said(
    corpus: FileCorpus, cache_dir: Path, tmp_path: Path
) -> Callable[[str, str], list[tuple[str, str]]]:
    """What a run on this device in this precision logs."""

    def run(device: str, precision: str) -> list[tuple[str, str]]:
        config = TeacherConfig(
            model=tiny_model(layers=1, hidden_size=16),
            corpus=corpus,
            tokenizer=WordPieceTokenizer(vocab_size=300),
            seq_len=32,
            schedule=Schedule(batch_size=4, max_steps=1),
            precision=precision,
        )
        sink = ListSink()
        execute(config, tmp_path, sink, cache_dir=cache_dir, device=device)
        return [(event.level, event.message) for event in sink.of_type(Log)]

    return run


def test_auto_says_why_it_takes_the_processor(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[str, str], list[tuple[str, str]]]
) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    told = [message for level, message in said("auto", "fp32") if level == "warning"]
    assert told == [
        "training on the CPU, since no GPU can be used: The NVIDIA driver on your system is too "
        "old (found version 11040)."
    ]
    assert not [level for level, _ in said("cpu", "fp32") if level == "warning"]


def test_bf16_that_is_emulated_is_said(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[str, str], list[tuple[str, str]]]
) -> None:
    monkeypatch.setattr("kdcore.train.trainer.emulates_bf16", lambda _: True)
    assert [message for level, message in said("cpu", "bf16") if level == "warning"] == [
        "this GPU does not support bf16 and emulates it: fp32 is faster here"
    ]
