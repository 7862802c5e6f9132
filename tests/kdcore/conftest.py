"""Tiny text and tiny models: real runs in a second."""

import random
from pathlib import Path

import pytest

from kdcore.config import FileCorpus

TOPICS = [
    words.split()
    for words in (
        "river water fish boat rain lake stream bridge",
        "king queen crown throne castle court prince duke",
        "music song piano violin opera choir concert melody",
        "army war battle soldier general siege sword fort",
        "star planet moon orbit comet sun galaxy telescope",
        "tree forest leaf root branch oak pine seed",
    )
]


def write_text(path: Path, lines: int, seed: int) -> Path:
    """Lines that each keep to one topic, so that the words around a gap tell which words fit."""
    source = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(lines):
            words = source.choices(source.choice(TOPICS), k=source.randint(14, 30))
            file.write(" ".join(words) + ".\n")
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
