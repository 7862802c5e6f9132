"""Checks uploaded tokenizer files with the code that trainers load them with."""

from pathlib import Path

from app.errors import Invalid, TooLarge, Unsupported
from kdcore.data.text_files import is_binary
from kdcore.data.vocabulary import prepare, read_tokenizer_json, read_vocabulary
from kdcore.errors import DataError

MAX_TOKENIZER_BYTES = 64 * 1024**2
"""Read as a whole; usual ones have a few MiB."""


def check_tokenizer_json(path: Path) -> None:
    """Raise Invalid unless the file is a tokenizer that can mask."""
    _require_text(path)
    try:
        prepare(*read_tokenizer_json(path))
    except DataError as error:
        raise _invalid(path, str(error)) from error
    except Exception as error:  # the Rust library raises bare Exception
        raise _invalid(path, f"the tokenizer cannot tokenise text: {error}") from error


def check_vocab_txt(path: Path) -> None:
    """Raise Invalid unless the file is a BERT vocabulary: one token a line, each once."""
    _require_text(path)
    try:
        read_vocabulary(path)
    except DataError as error:
        raise _invalid(path, str(error)) from error


def _invalid(path: Path, message: str) -> Invalid:
    # The name on disk is not that of the user.
    return Invalid(message.replace(path.name, "the file"))


def _require_text(path: Path) -> None:
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise TooLarge(f"A tokenizer file may have at most {MAX_TOKENIZER_BYTES:,} bytes.")
    if is_binary(path):
        raise Unsupported("This file is binary, not text.")
