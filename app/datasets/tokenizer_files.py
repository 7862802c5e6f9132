"""Checks uploaded tokenizer files, without loading transformers or torch."""

from pathlib import Path

from tokenizers import Tokenizer

from app.errors import Invalid, TooLarge, Unsupported

MAX_TOKENIZER_BYTES = 64 * 1024**2
"""They are read whole; real ones have a few MiB."""
NEEDED = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")


def check_tokenizer_json(path: Path) -> None:
    """Raise Invalid unless the file is a tokenizer that can mask."""
    text = _text(path)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare exceptions with its reason in words
        raise Invalid(f"This is not a tokenizer.json: {error}") from error
    missing = [token for token in NEEDED if tokenizer.token_to_id(token) is None]
    if missing:
        raise Invalid(f"The tokenizer has no {', '.join(missing)}: a BERT-like one is needed.")


def check_vocab_txt(path: Path) -> None:
    """Raise Invalid unless the file is a BERT vocabulary: one token a line, each once."""
    tokens = _text(path).rstrip("\n").split("\n")
    if len(set(tokens)) != len(tokens):
        raise Invalid("The vocabulary names a token twice; each line must hold another token.")
    missing = [token for token in NEEDED if token not in set(tokens)]
    if missing:
        raise Invalid(f"The vocabulary has no {', '.join(missing)}: a BERT-like one is needed.")


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise TooLarge(f"A tokenizer file may have at most {MAX_TOKENIZER_BYTES:,} bytes.")
    data = path.read_bytes()
    if b"\0" in data:
        raise Unsupported("This file is binary, not text.")
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise Invalid(f"Not valid UTF-8 at byte {error.start}.") from error
