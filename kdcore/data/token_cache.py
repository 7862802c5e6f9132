"""A corpus as token ids on disk: built once, memory-mapped; imports no torch.

Every document becomes one line `[CLS] ids [SEP]`; they are stored back to back in `tokens.bin`,
and `offsets.bin` says where each begins. Neither building nor reading holds more than a few MiB.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from kdcore.data.corpora import CorpusText, Split
from kdcore.data.disk_cache import cached_folder
from kdcore.data.text_facts import TextFacts
from kdcore.data.tokenizers import TokenizerInfo
from kdcore.errors import DataError
from kdcore.events import PhaseProgress, Sink

_BATCH_CHARS = 2**19
_CHUNK_TOKENS = 2**22
# Part of the name of every entry; increment it when the same text would give other ids.
_FORMAT_VERSION = 2
_FACTS = "facts.json"


@dataclass
class TokenisedSplit:
    """One split of a corpus as token ids; both arrays are memory-mapped and read-only."""

    token_ids: np.memmap[Any, np.dtype[Any]]
    """uint16 or uint32; every line as [CLS] ids [SEP], lines back to back."""
    offsets: np.memmap[Any, np.dtype[np.int64]]
    """int64, one more than there are lines: line i is tokens[offsets[i]:offsets[i + 1]]."""
    facts: TextFacts = field(default_factory=TextFacts)


def tokenise(
    corpus: CorpusText, tokenizer: TokenizerInfo, split: Split, cache_dir: Path, sink: Sink
) -> TokenisedSplit:
    """`split` of the corpus as token ids, from the cache if it is there."""
    name = f"{corpus.fingerprint}-{tokenizer.fingerprint}-{split}-v{_FORMAT_VERSION}"
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)

    def build(folder: Path) -> None:
        with open(folder / "tokens.bin", "wb") as ids, open(folder / "offsets.bin", "wb") as ends:
            facts = _write(corpus, tokenizer, split, dtype, ids, ends, sink)
        (folder / _FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")

    folder = cached_folder(cache_dir / "tokenised" / name, build, sink)
    return TokenisedSplit(
        token_ids=np.memmap(folder / "tokens.bin", dtype=dtype, mode="r"),
        offsets=np.memmap(folder / "offsets.bin", dtype=np.int64, mode="r"),
        facts=TextFacts(**json.loads((folder / _FACTS).read_text(encoding="utf-8"))),
    )


def _batches(documents: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document)
        if chars >= _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _write(
    corpus: CorpusText,
    tokenizer: TokenizerInfo,
    split: Split,
    dtype: np.dtype[Any],
    ids_file: BinaryIO,
    offsets_file: BinaryIO,
    sink: Sink,
) -> TextFacts:
    # Text that spells a special token becomes that token, as it will where the model is used.
    # Masking never draws one, and padding is known by its place, not by its id.
    core = tokenizer.hf.backend_tokenizer
    core.no_truncation()
    core.no_padding()
    progress = PhaseProgress(sink, "tokenising", corpus.size(split), "documents")
    done, position = 0, 0
    offsets_file.write(np.zeros(1, np.int64).tobytes())
    facts, characters = TextFacts(), Counter[str]()
    ordinary_specials = sorted(tokenizer.special_ids - {tokenizer.unk_id})
    for batch in _batches(corpus.documents(split)):
        lines = []
        for text, encoding in zip(
            batch, core.encode_batch(batch, add_special_tokens=False), strict=True
        ):
            characters.update(text)
            ids = encoding.ids
            if not ids:
                facts.blank_documents += 1
                continue
            lines.append([tokenizer.cls_id, *ids, tokenizer.sep_id])
            if tokenizer.unk_id in ids:
                places = zip(ids, encoding.offsets, strict=True)
                facts.add_unknown(text, (span for i, span in places if i == tokenizer.unk_id))
        lengths = np.fromiter(map(len, lines), np.int64, len(lines))
        flat = np.fromiter((i for line in lines for i in line), dtype, int(lengths.sum()))
        ids_file.write(flat.tobytes())
        offsets_file.write((position + np.cumsum(lengths)).tobytes())
        position += len(flat)
        facts.documents += len(lines)
        facts.tokens += len(flat) - 2 * len(lines)
        facts.unknown_tokens += int((flat == tokenizer.unk_id).sum())
        facts.special_tokens += int(np.isin(flat, ordinary_specials).sum()) - 2 * len(lines)
        done += len(batch)
        progress.update(done)
    if not position:
        raise DataError(f"the {split} split of the corpus contains no text")
    facts.blank_documents += corpus.blank_rows(split)
    facts.add_characters(characters, core)
    progress.finish()
    return facts


# ---------------------------------------------------------------------------------- statistics


def token_counts(split: TokenisedSplit, vocab_size: int) -> npt.NDArray[np.int64]:
    """How often each id occurs, as (vocab_size,)."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(split.token_ids), _CHUNK_TOKENS):
        chunk = np.asarray(split.token_ids[start : start + _CHUNK_TOKENS])
        counts += np.bincount(chunk, minlength=vocab_size)
    return counts


def unigram_entropy(split: TokenisedSplit, vocab_size: int, special_ids: frozenset[int]) -> float:
    """Entropy in nats of the non-special tokens: the loss of guessing by frequency alone."""
    counts = token_counts(split, vocab_size)
    counts[sorted(special_ids)] = 0
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log(shares)).sum())
