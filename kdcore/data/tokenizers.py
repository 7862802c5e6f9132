"""Loads or trains the tokenizer of a run; imports no torch of its own.

Only tokenizers with [CLS], [SEP], [PAD], [MASK] and [UNK] in some spelling are of use to a masked
language model; whatever lacks one is refused. What trains is what is delivered: a text has
the ids that `TokenizerInfo.hf` gives it, whatever special tokens it spells.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import tokenizers
import transformers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from kdcore.config import (
    FolderTokenizer,
    HubTokenizer,
    ModelTokenizer,
    Tokenizer,
    WordPieceTokenizer,
)
from kdcore.data.corpora import CorpusText
from kdcore.data.disk_cache import cached_folder
from kdcore.data.vocabulary import (
    SPECIAL_TOKENS,
    Role,
    marks_in,
    prepare,
    read_tokenizer_json,
    read_vocabulary,
    require_roles,
)
from kdcore.errors import DataError
from kdcore.events import Log, Progress, Sink

# All cores; set explicitly, since otherwise a later fork of this process logs a warning.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

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
"""A vocabulary is trained on at most this many characters, from the start of the training split."""
# WordPiece turns a longer word into [UNK]; training on one would take hours.
_ENDLESS_WORD = re.compile(r"[^\s!-/:-@\[-`{-~\u2000-\u206f\u3000-\u303f]{101,}")
_USUAL_ALPHABET = 1000
_COVERED = 0.9999
"""Share of the text's characters that the alphabet covers, beyond the usual size if needed."""
_MARKS_MATTER = 0.005
"""Marks on letters that are neither Latin nor Greek, as a share of all characters."""
_CJK = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ceaf\U0002f800-\U0002fa1f]"
)
"""BERT puts spaces around each of these, so that none ever continues a word."""
_CASING = "casing.json"
_ROLES: tuple[Role, ...] = get_args(Role)
_TRAINING_VERSION = 2


@dataclass(frozen=True)
class TokenizerInfo:
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
    remarks: tuple[str, ...] = ()
    """Notes for the user on how it was read."""


def load_tokenizer(
    config: Tokenizer, corpus: CorpusText, cache_dir: Path, sink: Sink, model_folder: Path | None
) -> TokenizerInfo:
    """The tokenizer that `config` names; `model_folder` is the pretrained teacher's, if any."""
    tokens = _load(config, corpus, cache_dir, sink, model_folder)
    for remark in tokens.remarks:
        sink.emit(Log(message=remark))
    return tokens


def _load(
    config: Tokenizer, corpus: CorpusText, cache_dir: Path, sink: Sink, model_folder: Path | None
) -> TokenizerInfo:
    if isinstance(config, WordPieceTokenizer):
        return _trained_tokens(config, corpus, cache_dir, sink)
    if isinstance(config, FolderTokenizer):
        return tokens_from_folder(Path(config.path))
    if isinstance(config, HubTokenizer):
        return _hub_tokens(config)
    if isinstance(config, ModelTokenizer):
        if model_folder is None:
            raise DataError("there is no pretrained checkpoint whose tokenizer could be used")
        return tokens_from_folder(model_folder)
    raise DataError("uploads exist on a server only: use --tokenizer.path FOLDER")


# ------------------------------------------------------------------------------------- loaded


def has_tokenizer(folder: Path) -> bool:
    """Whether `tokens_from_folder` finds anything to read there."""
    names = ("tokenizer_config.json", "tokenizer.json", "vocab.txt")
    return any((folder / name).is_file() for name in names)


def tokens_from_folder(folder: Path, name: str | None = None) -> TokenizerInfo:
    """The tokenizer in `folder`: a saved one, or a bare tokenizer.json or vocab.txt.

    `name` is what messages call it, if not by its folder.
    """
    name = name or str(folder)
    remarks: list[str] = []
    try:
        if (folder / "tokenizer_config.json").is_file():
            _require_casing(folder)
            hf = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        elif (folder / "tokenizer.json").is_file():
            core, roles = read_tokenizer_json(folder / "tokenizer.json")
            remarks += prepare(core, roles)
            hf = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **roles)
        elif (folder / "vocab.txt").is_file():
            hf = _from_vocab_txt(folder / "vocab.txt", remarks)
        else:
            raise DataError(f"{name} contains no tokenizer: neither tokenizer.json nor vocab.txt")
        return _tokens(hf, name, remarks)
    except DataError:
        raise
    except Exception as error:  # the Rust library raises bare Exception
        raise DataError(f"the tokenizer of {name} cannot be loaded: {error}") from error


def _require_casing(folder: Path) -> None:
    """Raise DataError for a bare vocab.txt of capital letters that transformers would lower-case,
    since its tokenizer_config.json does not say so."""
    vocabulary = folder / "vocab.txt"
    if (folder / "tokenizer.json").is_file() or not vocabulary.is_file():
        return
    path = folder / "tokenizer_config.json"
    said = "do_lower_case" in json.loads(path.read_text(encoding="utf-8"))
    if not said and read_vocabulary(vocabulary).cased:
        raise DataError(
            f"{path} does not say do_lower_case, but vocab.txt is cased: add "
            '"do_lower_case": false there, or true if the text is to be lower-cased'
        )


def _from_vocab_txt(path: Path, remarks: list[str]) -> Any:
    read = read_vocabulary(path)
    # Accents: as BERT does, off with the lower-casing, unless the entries say otherwise.
    strip_accents = False if read.accents else None
    if read.cased:
        remarks.append(f"{path.name} is cased: the text is not lower-cased")
    elif read.accents:
        remarks.append(f"{path.name} is lower-case with accents: the text is lower-cased only")
    else:
        remarks.append(
            f"{path.name} has no capital letters and no accents: the text is lower-cased and its "
            "accents are stripped"
        )
    return _bert(read.entries, read.cased, strip_accents, **read.roles)


def _bert(entries: list[str], cased: bool, strip_accents: bool | None, **roles: str) -> Any:
    return transformers.BertTokenizer(
        vocab={entry: index for index, entry in enumerate(entries)},
        do_lower_case=not cased,
        strip_accents=strip_accents,
        **roles,
    )


def _hub_tokens(config: HubTokenizer) -> TokenizerInfo:
    # Imported here: it takes seconds, and most runs do not use the hub.
    from kdcore.data.hub import hub_files  # noqa: PLC0415

    remedy = "Train a WordPiece tokenizer on the corpus, or upload a tokenizer.json."
    folder = hub_files(config.name, config.revision, _TOKENIZER_FILES, remedy)
    return tokens_from_folder(folder, f"'{config.name}'")


def _tokens(hf: Any, where: str, remarks: list[str]) -> TokenizerInfo:
    if not getattr(hf, "is_fast", False):
        raise DataError(f"the tokenizer of {where} has no fast version (tokenizer.json)")
    roles = {role: getattr(hf, role) for role in _ROLES if getattr(hf, role) is not None}
    require_roles(roles, f"the tokenizer of {where}")
    remarks += prepare(hf.backend_tokenizer, roles)
    ids = {role: getattr(hf, f"{role}_id") for role in _ROLES}
    return TokenizerInfo(
        hf=hf,
        vocab_size=max(hf.get_vocab().values()) + 1,
        cls_id=ids["cls_token"],
        sep_id=ids["sep_token"],
        pad_id=ids["pad_token"],
        mask_id=ids["mask_token"],
        unk_id=ids["unk_token"],
        special_ids=frozenset(hf.all_special_ids),
        fingerprint=_fingerprint(hf, ids),
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _fingerprint(hf: Any, ids: dict[Role, int]) -> str:
    """A hash of what decides the ids: not of names, paths, padding or truncation.

    Releases up to 0.1 left out how added tokens are found. For those that need nothing said of it,
    the special tokens found as they are spelled, the fingerprint is still theirs: checkpoints and
    stored runs know no other. For the rest a second part follows a "+".
    """
    core = json.loads(hf.backend_tokenizer.to_str())
    kept = [core["normalizer"], core["pre_tokenizer"], core["model"], hf.get_vocab(), ids]
    first = _digest(kept)
    more = [token for token in core["added_tokens"] if not _is_plain(token, set(ids.values()))]
    return f"{first}+{_digest(more)[:16]}" if more else first


def _is_plain(token: dict[str, Any], role_ids: set[int]) -> bool:
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    return token["id"] in role_ids and token["special"] and not any(token[f] for f in flags)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


# ------------------------------------------------------------------------------------ trained


def _trained_tokens(
    config: WordPieceTokenizer, corpus: CorpusText, cache_dir: Path, sink: Sink
) -> TokenizerInfo:
    options = f"{'' if config.cased else 'un'}cased-accents-{config.strip_accents}"
    name = f"wordpiece-{corpus.fingerprint}-{config.vocab_size}-{options}-v{_TRAINING_VERSION}"

    def build(folder: Path) -> None:
        strip_accents = _strips_accents(config, corpus)
        vocabulary, remarks = _train(config, strip_accents, corpus, sink)
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        casing = {"strip_accents": strip_accents, "remarks": remarks}
        (folder / _CASING).write_text(json.dumps(casing), encoding="utf-8")

    folder = cached_folder(cache_dir / "tokenizers" / name, build, sink)
    casing = json.loads((folder / _CASING).read_text(encoding="utf-8"))
    read = read_vocabulary(folder / "vocab.txt")
    hf = _bert(read.entries, config.cased, casing["strip_accents"])
    return _tokens(hf, "this run", casing["remarks"])


def _beginning(corpus: CorpusText) -> Iterator[str]:
    chars = 0
    for document in corpus.documents("train"):
        chars += len(document)
        if chars > MAX_TRAINING_CHARS:
            return
        yield document


def _strips_accents(config: WordPieceTokenizer, corpus: CorpusText) -> bool | None:
    """As BertTokenizer has it: None strips whatever is lower-cased."""
    if config.strip_accents != "auto":
        return config.strip_accents == "always"
    counts: Counter[str] = Counter()
    for document in _beginning(corpus):
        counts.update(document)
    marks = sum(n * _meaningful_marks(c) for c, n in counts.items() if not c.isascii())
    return False if marks > _MARKS_MATTER * sum(counts.values()) else None


def _meaningful_marks(character: str) -> int:
    """Marks of a character whose letter is neither Latin nor Greek."""
    if "\u0300" <= character <= "\u036f":
        return 0  # an accent by itself
    base = unicodedata.name(unicodedata.normalize("NFD", character)[0], "")
    return 0 if base.startswith(("LATIN", "GREEK")) else marks_in(character)


def _training_text(corpus: CorpusText, normalizer: normalizers.Normalizer) -> Iterator[str]:
    for document in _beginning(corpus):
        yield _ENDLESS_WORD.sub(" ", normalizer.normalize_str(document))


def _train(
    config: WordPieceTokenizer, strip_accents: bool | None, corpus: CorpusText, sink: Sink
) -> tuple[list[str], list[str]]:
    """(vocabulary, remarks): the special tokens, the alphabet, then merged pieces."""
    vocab_size = config.vocab_size
    phase, unit = "training the tokenizer", "entries"
    sink.emit(Progress(phase=phase, done=0, total=vocab_size, unit=unit))
    core = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS[1]))
    normalizer = normalizers.BertNormalizer(lowercase=not config.cased, strip_accents=strip_accents)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in _training_text(corpus, normalizer):
        counts.update(text)
    alphabet, remarks = _alphabet(counts, vocab_size)
    if not alphabet:
        raise DataError(_why_no_letters(corpus))
    if strip_accents is False and not config.cased:
        remarks.append("the text is lower-cased; its accents and vowel signs are kept")
    # The library numbers letters as a hash map yields them and breaks ties between merges by
    # number. Naming them all beforehand makes the vocabulary the same in every process.
    large = len(alphabet) > min(_USUAL_ALPHABET, vocab_size // 3)
    inside = [letter for letter in alphabet if not (large and _CJK.match(letter))]
    first = [*SPECIAL_TOKENS, *alphabet, *(f"##{letter}" for letter in inside)]
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
    count = len(vocabulary)
    sink.emit(Progress(phase=phase, done=count, total=count, unit=unit, eta_s=0.0))
    return sorted(vocabulary, key=vocabulary.__getitem__), remarks


def _alphabet(counts: Counter[str], vocab_size: int) -> tuple[list[str], list[str]]:
    """(characters, remarks): as many as cover the text and fit into the vocabulary.

    Letters may take two thirds of it, alone and inside words; characters that are words by
    themselves (Chinese) may fill it.
    """
    ranked = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    total = sum(counts[c] for c in ranked)
    room = vocab_size - len(SPECIAL_TOKENS)
    kept = ranked[: min(_USUAL_ALPHABET, room // 3)]
    covered = sum(counts[c] for c in kept)
    if covered < _COVERED * total:
        kept, covered, letters = [], 0, 0
        for character in ranked:
            letters += _CJK.match(character) is None
            if covered >= _COVERED * total or letters > room // 3 or len(kept) + letters >= room:
                break
            kept.append(character)
            covered += counts[character]
    remarks = []
    if covered < _COVERED * total and len(kept) < len(ranked):
        remarks.append(
            f"the vocabulary of {vocab_size:,} entries has room for {len(kept):,} of the "
            f"{len(ranked):,} characters of the text; the others, {1 - covered / total:.2%} of the "
            "text, become unknown tokens: raise tokenizer.vocab_size"
        )
    return sorted(kept), remarks


def _why_no_letters(corpus: CorpusText) -> str:
    if any(_ENDLESS_WORD.search(document) for document in _beginning(corpus)):
        return (
            "every word of the text is longer than 100 characters, which WordPiece takes as "
            "unknown, so there is nothing to train a vocabulary on: put spaces between the words, "
            "or use a tokenizer of another kind"
        )
    return "the corpus contains no letters to train a tokenizer on"
