"""Loads or trains the tokenizer of a run; imports no torch of its own.

Only tokenizers with [CLS], [SEP], [PAD], [MASK] and [UNK] in some spelling are of use to a masked
language model; whatever lacks one is refused in words.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from kdcore.cache import cached_folder
from kdcore.config import (
    FolderTokenizer,
    HubTokenizer,
    ModelTokenizer,
    Tokenizer,
    WordPieceTokenizer,
)
from kdcore.corpora import CorpusText
from kdcore.errors import DataError
from kdcore.events import Sink

# All cores; said explicitly, or a fork later in the process would be answered with a warning.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_ROLES = {
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}
_TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "config.json",
]
MAX_TRAINING_CHARS = 32 * 2**20
"""A vocabulary is trained on at most the first so many characters of the training split."""
# WordPiece takes a longer word for unknown; training on one would take hours.
_ENDLESS_WORD = re.compile(r"[^\s!-/:-@\[-`{-~\u2000-\u206f\u3000-\u303f]{101,}")
_MAX_ALPHABET = 1000
_TRAINING_VERSION = 1


@dataclass(frozen=True)
class Tokens:
    """A tokenizer, and what training needs to know of it."""

    hf: Any
    """The transformers tokenizer (PreTrainedTokenizerFast)."""
    vocab_size: int
    """Number of ids, added tokens included."""
    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int
    unk_id: int
    special_ids: frozenset[int]
    fingerprint: str
    """Equal for tokenizers that cut every text into the same ids."""


def load_tokenizer(
    config: Tokenizer, corpus: CorpusText, cache_dir: Path, sink: Sink, model_folder: Path | None
) -> Tokens:
    """The tokenizer that `config` names; `model_folder` is the pretrained teacher's, if any."""
    if isinstance(config, WordPieceTokenizer):
        return _trained_tokens(config.vocab_size, corpus, cache_dir, sink)
    if isinstance(config, FolderTokenizer):
        return tokens_from_folder(Path(config.path))
    if isinstance(config, HubTokenizer):
        return _hub_tokens(config)
    if isinstance(config, ModelTokenizer):
        if model_folder is None:
            raise DataError("there is no pretrained checkpoint whose tokenizer could be used")
        return tokens_from_folder(model_folder)
    raise DataError("an uploaded tokenizer must be resolved to its folder first")


# ------------------------------------------------------------------------------------- loaded


def tokens_from_folder(folder: Path, name: str | None = None) -> Tokens:
    """The tokenizer in `folder`: a saved one, or a bare tokenizer.json or vocab.txt.

    `name` is what messages call it, if not by its folder.
    """
    name = name or str(folder)
    try:
        if (folder / "tokenizer_config.json").is_file():
            hf = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        elif (folder / "tokenizer.json").is_file():
            hf = _from_tokenizer_json(folder / "tokenizer.json")
        elif (folder / "vocab.txt").is_file():
            hf = _from_vocab_txt(folder / "vocab.txt")
        else:
            raise DataError(f"{name} holds no tokenizer: neither tokenizer.json nor vocab.txt")
    except DataError:
        raise
    except Exception as error:  # the Rust library raises bare Exception
        raise DataError(f"the tokenizer of {name} cannot be loaded: {error}") from error
    return _tokens(hf, name)


def _from_tokenizer_json(path: Path) -> Any:
    core = tokenizers.Tokenizer.from_file(str(path))
    vocabulary = core.get_vocab(with_added_tokens=True)
    names = {
        role: next((name for name in spellings if name in vocabulary), None)
        for role, spellings in _ROLES.items()
    }
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names)


def _from_vocab_txt(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8: a wrong byte at byte {error.start}") from None
    # Not splitlines(): an entry may be one of Unicode's rarer line separators.
    entries = text.removesuffix("\n").split("\n")
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    missing = [name for name in SPECIAL_TOKENS if name not in vocabulary]
    if missing:
        raise DataError(f"{path.name} lacks {', '.join(missing)}: one entry a line is expected")
    return transformers.BertTokenizer(vocab=vocabulary)


def _hub_tokens(config: HubTokenizer) -> Tokens:
    # Costs seconds, which runs that never ask the hub should not pay.
    from kdcore.hub import hub_files  # noqa: PLC0415

    remedy = "Train a WordPiece tokenizer on the corpus, or upload a tokenizer.json."
    folder = hub_files(config.name, config.revision, _TOKENIZER_FILES, remedy)
    return tokens_from_folder(folder, f"'{config.name}'")


def _tokens(hf: Any, where: str) -> Tokens:
    if not getattr(hf, "is_fast", False):
        raise DataError(f"the tokenizer of {where} has no fast version (tokenizer.json)")
    ids = {role: getattr(hf, f"{role}_id") for role in _ROLES}
    missing = [role.removesuffix("_token") for role in _ROLES if ids[role] is None]
    if missing:
        raise DataError(
            f"the tokenizer of {where} has no {', '.join(missing)} token: "
            "masked language modelling needs pad, unk, cls, sep and mask"
        )
    return Tokens(
        hf=hf,
        vocab_size=max(hf.get_vocab().values()) + 1,
        cls_id=ids["cls_token"],
        sep_id=ids["sep_token"],
        pad_id=ids["pad_token"],
        mask_id=ids["mask_token"],
        unk_id=ids["unk_token"],
        special_ids=frozenset(hf.all_special_ids),
        fingerprint=_fingerprint(hf, ids),
    )


def _fingerprint(hf: Any, ids: dict[str, int]) -> str:
    """Of what decides the ids: not of names, paths, padding or truncation."""
    core = json.loads(hf.backend_tokenizer.to_str())
    kept = [core["normalizer"], core["pre_tokenizer"], core["model"], hf.get_vocab(), ids]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:32]


# ------------------------------------------------------------------------------------ trained


def _trained_tokens(vocab_size: int, corpus: CorpusText, cache_dir: Path, sink: Sink) -> Tokens:
    name = f"wordpiece-{corpus.fingerprint}-{vocab_size}-v{_TRAINING_VERSION}"

    def build(folder: Path) -> None:
        vocabulary = _train(vocab_size, corpus, sink)
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")

    return tokens_from_folder(cached_folder(cache_dir / "tokenizers" / name, build, sink))


def _training_text(corpus: CorpusText, normalizer: normalizers.Normalizer) -> Iterator[str]:
    chars = 0
    for document in corpus.documents("train"):
        chars += len(document)
        if chars > MAX_TRAINING_CHARS:
            return
        yield _ENDLESS_WORD.sub(" ", normalizer.normalize_str(document))


def _train(vocab_size: int, corpus: CorpusText, sink: Sink) -> list[str]:
    """A lower-case WordPiece vocabulary: the special tokens, the alphabet, then merged pieces."""
    sink.emit(
        "progress",
        phase="training the tokenizer",
        done=0,
        total=vocab_size,
        unit="entries",
        eta_s=None,
    )
    core = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS[1]))
    normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in _training_text(corpus, normalizer):
        counts.update(text)
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    alphabet = sorted(islice(ranked, min(_MAX_ALPHABET, (vocab_size - len(SPECIAL_TOKENS)) // 3)))
    if not alphabet:
        raise DataError("the corpus holds no letters to train a tokenizer on")
    # The library numbers letters as a hash map yields them and breaks ties between merges by
    # number. Naming them all beforehand makes the vocabulary the same in every process.
    first = [*SPECIAL_TOKENS, *alphabet, *(f"##{letter}" for letter in alphabet)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(vocab_size, len(first)),
        special_tokens=first,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        min_frequency=2,
        show_progress=False,
    )
    core.train_from_iterator(_training_text(corpus, normalizer), trainer)
    vocabulary = core.get_vocab(with_added_tokens=True)
    sink.emit(
        "progress",
        phase="training the tokenizer",
        done=len(vocabulary),
        total=len(vocabulary),
        unit="entries",
        eta_s=0.0,
    )
    return sorted(vocabulary, key=vocabulary.__getitem__)
