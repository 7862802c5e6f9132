"""Reads vocab.txt and tokenizer.json files; imports neither torch nor transformers.

The server's check of an upload and the trainer's loading are the same code, so that what the one
takes the other does not refuse.
"""

import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import pre_tokenizers, processors

from kdcore.data.text_files import decoded_chunks
from kdcore.errors import DataError

Role = Literal["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
Roles = dict[Role, str]
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SPELLINGS: dict[Role, tuple[str, ...]] = {
    "pad_token": ("pad",),
    "unk_token": ("unk",),
    "cls_token": ("cls", "s", "bos"),
    "sep_token": ("sep", "/s", "eos"),
    "mask_token": ("mask",),
}
_BRACKETED = re.compile(r"\[(.+)\]|<\|(.+)\|>|<(.+)>")
_CASED_SHARE = 0.001
"""Share of the entries; a stray capital letter does not make a vocabulary cased."""


@dataclass(frozen=True)
class Vocabulary:
    """The entries of a vocab.txt, and how text must be cut for them."""

    entries: list[str]
    roles: Roles
    cased: bool
    """Whether it is cased: text must not be lower-cased for it."""
    accents: bool
    """Whether entries contain accents or vowel signs: these must not be stripped from the text."""


def read_vocabulary(path: Path) -> Vocabulary:
    """A BERT vocabulary, one entry a line; DataError for doubles and missing special tokens."""
    # Not splitlines(): an entry may be one of Unicode's rarer line separators.
    entries = "".join(decoded_chunks(path)).rstrip("\n").split("\n")
    lines: dict[str, int] = {}
    for number, entry in enumerate(entries, 1):
        if lines.setdefault(entry, number) != number:
            raise DataError(
                f"{path.name} has the entry {entry!r} twice, on line {lines[entry]} and line "
                f"{number}; each line must be a different entry"
            )
    roles = _spelled(entries)
    require_roles(roles, path.name)
    words = [entry for entry in entries if not _BRACKETED.fullmatch(entry)]
    cased = sum(entry != entry.lower() for entry in words)
    accented = sum(not entry.isascii() and marks_in(entry) > 0 for entry in words)
    enough = _CASED_SHARE * len(entries)
    return Vocabulary(entries, roles, cased=cased > enough, accents=accented > enough)


def marks_in(text: str) -> int:
    """Number of non-spacing marks (accents, vowel signs) in `text`, composed ones included."""
    return sum(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", text))


def read_tokenizer_json(path: Path) -> tuple[tokenizers.Tokenizer, Roles]:
    """A tokenizer and its special tokens by role; DataError if it is none or lacks a role."""
    try:
        # Not from_file, which takes no byte order mark.
        core = tokenizers.Tokenizer.from_str("".join(decoded_chunks(path)))
    except DataError:
        raise
    except Exception as error:  # the Rust library raises bare Exception
        raise DataError(
            f"{path.name} is not a tokenizer file of the tokenizers library: {error}"
        ) from error
    roles = roles_of(core)
    require_roles(roles, path.name)
    return core, roles


def require_roles(roles: Roles, where: str) -> None:
    """Raise DataError, naming them, if special tokens are missing."""
    missing = [role.removesuffix("_token") for role in _SPELLINGS if role not in roles]
    if missing:
        raise DataError(
            f"{where} has no {', '.join(missing)} token: masked language modelling needs pad, unk, "
            "cls, sep and mask, spelled such as [MASK] or <mask>"
        )


def roles_of(core: tokenizers.Tokenizer) -> Roles:
    """The special tokens by role.

    What wraps a sequence is [CLS] and [SEP] whatever it is called, what the model falls back on is
    [UNK], what fills is [PAD]; everything else is known by its spelling.
    """
    added = core.get_added_tokens_decoder()
    vocabulary = core.get_vocab(with_added_tokens=True)
    roles = _spelled([token.content for token in added.values()])
    for role, token in _spelled(sorted(vocabulary, key=vocabulary.__getitem__)).items():
        roles.setdefault(role, token)
    unknown = getattr(core.model, "unk_token", None)
    if isinstance(core.model, tokenizers.models.Unigram):
        unk_id = json.loads(core.model.__getstate__())["unk_id"]
        unknown = None if unk_id is None else core.id_to_token(unk_id)
    processor = core.post_processor
    first, last = _wrapping(processor and json.loads(processor.__getstate__()))
    fills = (core.padding or {}).get("pad_token")
    found: dict[Role, Any] = {
        "unk_token": unknown, "cls_token": first, "sep_token": last, "pad_token": fills
    }  # fmt: skip
    return roles | {role: token for role, token in found.items() if token in vocabulary}


def _spelled(tokens: list[str]) -> Roles:
    """Roles by spelling, such as [MASK], <mask> or <|mask|>; [CLS] goes before <s>, whichever is
    first, and of the same name the first."""
    names: dict[str, str] = {}
    for token in tokens:
        match = _BRACKETED.fullmatch(token)
        if match is not None:
            names.setdefault(next(filter(None, match.groups())).lower(), token)
    found = {
        role: next((names[name] for name in spellings if name in names), None)
        for role, spellings in _SPELLINGS.items()
    }
    return {role: token for role, token in found.items() if token is not None}


def _wrapping(processor: dict[str, Any] | None) -> tuple[str | None, str | None]:
    """(first, last) token that the post-processor puts around a single sequence."""
    match processor:
        case {"type": "BertProcessing" | "RobertaProcessing", "cls": [first, _], "sep": [last, _]}:
            return first, last
        case {"type": "TemplateProcessing", "single": [{"SpecialToken": first}, *_, last]}:
            return first["id"], last.get("SpecialToken", {}).get("id")
        case {"type": "Sequence", "processors": inner}:
            found = [_wrapping(each) for each in inner]
            return next((each for each in found if any(each)), (None, None))
    return None, None


def prepare(core: tokenizers.Tokenizer, roles: Roles) -> list[str]:
    """Change `core` so that it gives every text the ids that training uses; returns the changes.

    Those are [CLS], the text's own ids, [SEP]: neither cut, nor padded, nor drawn at random.
    """
    changes = []
    core.no_truncation()
    core.no_padding()
    model = core.model
    if getattr(model, "dropout", None):
        model.dropout = None
        changes.append("the tokenizer's random splitting (BPE dropout) is switched off")
    if _give_unknown_token(core, roles["unk_token"]):
        changes.append(f"characters that the tokenizer does not know become {roles['unk_token']}")
    first, last = (core.token_to_id(roles[role]) for role in ("cls_token", "sep_token"))
    inner = core.encode("a", add_special_tokens=False).ids
    if core.encode("a").ids != [first, *inner, last]:
        cls, sep = roles["cls_token"], roles["sep_token"]
        core.post_processor = processors.TemplateProcessing(
            single=[f"{cls}:0", "$A:0", f"{sep}:0"],
            pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
            special_tokens=[(cls, first), (sep, last)],
        )
        changes.append(f"the tokenizer now puts {cls} and {sep} around each sequence")
    return changes


def _give_unknown_token(core: tokenizers.Tokenizer, unknown: str) -> bool:
    """Make the model use `unknown` for what it does not know; returns whether it was changed.

    Without such a token a BPE drops the characters that it does not know, and other models fail at
    the first one. DataError if the model's own vocabulary does not hold `unknown`.
    """
    model, vocabulary = core.model, core.get_vocab(with_added_tokens=False)
    unigram = isinstance(model, tokenizers.models.Unigram)
    state = json.loads(model.__getstate__()) if unigram else {}
    if state.get("unk_id") is not None or (not unigram and model.unk_token in vocabulary):
        return False
    if isinstance(model, tokenizers.models.BPE):
        fallback = [f"<0x{byte:02X}>" for byte in range(256)]
        every_byte = fallback if model.byte_fallback else pre_tokenizers.ByteLevel.alphabet()
        probe = core.encode("\U0001f9ff", add_special_tokens=False)
        if vocabulary.keys() >= set(every_byte) and probe.ids:
            return False
    if unknown not in vocabulary:
        raise DataError(
            f"the tokenizer's model has no token for what it does not know: {unknown} must be part "
            "of its vocabulary, not only an added token"
        )
    if unigram:
        entries = [(piece, score) for piece, score in state["vocab"]]
        core.model = tokenizers.models.Unigram(
            entries, vocabulary[unknown], state.get("byte_fallback", False)
        )
    else:
        model.unk_token = unknown
    return True
