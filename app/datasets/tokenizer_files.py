"""Checks uploaded tokenizer files with the code that trainers load them with."""

from pathlib import Path

from app.errors import Invalid, TooLarge, Unsupported
from kdcore.data.text_files import is_binary
from kdcore.data.vocabulary import prepare, read_tokenizer_json, read_vocabulary
from kdcore.errors import DataError

MAX_TOKENIZER_BYTES = 64 * 1024**2
"""They are read whole; real ones have a few MiB."""


def check_tokenizer_json(path: Path) -> None:
    """Raise Invalid unless the file is a tokenizer that can mask."""
    _refuse_what_is_no_text(path)
    try:
        prepare(*read_tokenizer_json(path))
    except DataError as error:
        raise _invalid(path, str(error)) from error
    except Exception as error:  # the Rust library raises bare Exception
        raise _invalid(path, f"the tokenizer cannot cut text: {error}") from error


def check_vocab_txt(path: Path) -> None:
    """Raise Invalid unless the file is a BERT vocabulary: one token a line, each once."""
    _refuse_what_is_no_text(path)
    try:
        read_vocabulary(path)
    except DataError as error:
        raise _invalid(path, str(error)) from error


def _invalid(path: Path, words: str) -> Invalid:
    # The file has our own name on disk; people know it by theirs.
    return Invalid(words.replace(path.name, "the file"))


def _refuse_what_is_no_text(path: Path) -> None:
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise TooLarge(f"A tokenizer file may have at most {MAX_TOKENIZER_BYTES:,} bytes.")
    if is_binary(path):
        raise Unsupported("This file is binary, not text.")
