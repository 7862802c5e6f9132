"""Tiny text and tiny models: real runs in a second."""

import random
from pathlib import Path

import pytest

from kdcore.config import FileCorpus

WORDS = (
    "the a of and in to river mountain king queen city army ship star language music war peace "
    "book paper stone water fire wind tree animal bird fish horse king's old new great small "
    "was is had were built made wrote found ruled sailed lived died born known called"
).split()


def write_text(path: Path, lines: int, seed: int) -> Path:
    """Lines of plausible word soup with a little structure, so that a model can learn from it."""
    source = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(lines):
            words = source.choices(WORDS, k=source.randint(14, 30))
            words[1:3] = ["king", "ruled"]
            file.write(" ".join(words) + " .\n")
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> FileCorpus:
    folder = tmp_path_factory.mktemp("corpus")
    return FileCorpus(
        path=str(write_text(folder / "train.txt", 600, seed=1)),
        validation_path=str(write_text(folder / "valid.txt", 80, seed=2)),
    )


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")
