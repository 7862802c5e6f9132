"""Sequences, lines, and their order; imports no torch. Arrays are numpy's, ids int64.

The order is a pure function of (seed, epoch): a resumed run sees the same batches.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kdcore.config import DistillLines
from kdcore.data.masking import IGNORED
from kdcore.data.token_cache import TokenisedSplit
from kdcore.data.tokenizers import TokenizerInfo
from kdcore.errors import DataError
from kdcore.rng import rng

Ids: TypeAlias = npt.NDArray[np.int64]
Packed: TypeAlias = npt.NDArray[Any]
MEGA_BATCH = 100
_CHUNK_TOKENS = 2**22


# -------------------------------------------------------------------------------------- batch


@dataclass(frozen=True)
class Batch:
    """Masked sequences; all arrays are (sequences, longest)."""

    ids: Ids
    attention_mask: Ids
    """1 at tokens, 0 at padding, which is at the end of each sequence only."""
    labels: Ids
    """-100 where nothing is to be predicted."""

    @property
    def lengths(self) -> Ids:
        """Tokens of each sequence, padding left out."""
        return np.asarray(self.attention_mask.sum(axis=1))

    @property
    def num_tokens(self) -> int:
        return int(self.attention_mask.sum())

    @property
    def labelled(self) -> int:
        return int((self.labels != IGNORED).sum())

    def microbatches(
        self, max_tokens_per_microbatch: int, multiple_of: int = 1
    ) -> Iterator["Batch"]:
        """The batch in microbatches of whole sequences, at least one, with at most so many tokens.

        With `multiple_of` > 1 their number is a multiple of it, if there are enough sequences, and
        each has equally many sequences.
        """
        if multiple_of > 1:
            yield from self._equal_microbatches(max_tokens_per_microbatch, multiple_of)
            return
        start, tokens = 0, 0
        for row, length in enumerate(self.lengths):
            if row > start and tokens + length > max_tokens_per_microbatch:
                yield self._rows(start, row)
                start, tokens = row, 0
            tokens += int(length)
        yield self._rows(start, len(self.ids))

    def _equal_microbatches(
        self, max_tokens_per_microbatch: int, multiple_of: int
    ) -> Iterator["Batch"]:
        rows, count = len(self.ids), 0
        while True:
            count = min(rows, count + multiple_of)
            edges = [rows * number // count for number in range(count + 1)]
            if (
                count == rows
                or np.add.reduceat(self.lengths, edges[:-1]).max() <= max_tokens_per_microbatch
            ):
                break
        for start, stop in itertools.pairwise(edges):
            yield self._rows(start, stop)

    def _rows(self, start: int, stop: int) -> "Batch":
        rows = slice(start, stop)
        return Batch(self.ids[rows], self.attention_mask[rows], self.labels[rows])

    def flat(self) -> tuple[Ids, Ids]:
        """(ids, labels), both (tokens,): sequences back to back without padding."""
        real = self.attention_mask.astype(bool)
        return self.ids[real], self.labels[real]


# ------------------------------------------------------------------------------------- packed


def pack(split: TokenisedSplit, seq_len: int, name: str = "the training text") -> Packed:
    """The token stream as (n, seq_len), a view; the last incomplete sequence is dropped.

    Lines follow each other with their [CLS] and [SEP], and may be cut at a sequence's edge.
    Raises DataError if the text is shorter than one sequence.
    """
    n = len(split.token_ids) // seq_len
    if n == 0:
        raise DataError(
            f"{name} has {len(split.token_ids)} tokens, fewer than one sequence of {seq_len}: "
            "give more text or shorten the sequences"
        )
    return np.asarray(split.token_ids)[: n * seq_len].reshape(n, seq_len)


# -------------------------------------------------------------------------------------- lines


@dataclass(frozen=True)
class Lines:
    """Lines of text to distill on, each with its own [CLS] and [SEP]."""

    lengths: Ids
    """Tokens of every line, [CLS] and [SEP] included."""
    _starts: Ids
    _tokens: npt.NDArray[Any]
    _cls_id: int
    _sep_id: int
    split: int = 0
    """Lines of the text that were longer and are cut into several."""
    too_short: int = 0
    """Lines, and ends of split lines, that are left out for their length."""
    too_unknown: int = 0
    """Lines that are left out for their share of unknown tokens."""

    def figures(self) -> dict[str, int]:
        """What became of the lines, as figures of a result."""
        return {
            "lines": len(self),
            "lines_split": self.split,
            "lines_too_short": self.too_short,
            "lines_too_unknown": self.too_unknown,
        }

    def __len__(self) -> int:
        return len(self.lengths)

    def get(self, i: int) -> Ids:
        """Line `i` as (lengths[i],): [CLS] ids [SEP]."""
        start, inner = int(self._starts[i]), int(self.lengths[i]) - 2
        line = np.empty(inner + 2, np.int64)
        line[0], line[-1] = self._cls_id, self._sep_id
        line[1:-1] = self._tokens[start : start + inner]
        return line


def lines(
    split: TokenisedSplit, tokenizer: TokenizerInfo, options: DistillLines, max_positions: int
) -> Lines:
    """The lines that `options` lets through.

    Lines longer than `options.max_tokens` (at most `max_positions`) are split, and each piece is
    wrapped in [CLS] and [SEP] again. Then pieces that are too short, or of which too great a share
    (special tokens not counted) is unknown, are dropped.
    """
    longest = min(options.max_tokens or max_positions, max_positions)
    offsets = np.asarray(split.offsets)
    starts, inner = _pieces(offsets, longest - 2)
    keep = inner + 2 >= options.min_tokens
    too_short = int((~keep).sum())
    starts, inner = starts[keep], inner[keep]
    unknown = _unknown_counts(np.asarray(split.token_ids), starts, inner, tokenizer.unk_id)
    keep = unknown <= options.max_unknown * inner
    too_unknown = int((~keep).sum())
    starts, inner = starts[keep], inner[keep]
    if not len(starts):
        raise DataError(
            f"no line of the text has {options.min_tokens} to {longest} tokens and at most "
            f"{options.max_unknown:.0%} unknown ones ({too_short:,} are too short, {too_unknown:,} "
            "have too many unknown tokens): lower lines.min_tokens or raise lines.max_unknown, or "
            "give other text"
        )
    return Lines(
        inner + 2,
        starts,
        np.asarray(split.token_ids),
        tokenizer.cls_id,
        tokenizer.sep_id,
        split=int((np.diff(offsets) > longest).sum()),
        too_short=too_short,
        too_unknown=too_unknown,
    )


def _pieces(offsets: Ids, longest: int) -> tuple[Ids, Ids]:
    """(starts, lengths) of the pieces of all lines, [CLS] and [SEP] left out."""
    inner = np.diff(offsets) - 2
    count = -(-inner // longest)
    first = np.cumsum(count) - count
    number = np.arange(int(count.sum())) - np.repeat(first, count)
    starts = np.repeat(offsets[:-1] + 1, count) + number * longest
    return starts, np.minimum(longest, np.repeat(inner, count) - number * longest)


def _unknown_counts(tokens: npt.NDArray[Any], starts: Ids, lengths: Ids, unk_id: int) -> Ids:
    """How many tokens of each piece are unknown, reading a bounded stretch at a time."""
    counts = np.zeros(len(starts), np.int64)
    begin = 0
    while begin < len(starts):
        end = int(np.searchsorted(starts, starts[begin] + _CHUNK_TOKENS))
        group = slice(begin, end)
        low, high = int(starts[begin]), int(starts[end - 1] + lengths[end - 1])
        sums = np.concatenate([[0], np.cumsum(tokens[low:high] == unk_id)])
        counts[group] = sums[starts[group] + lengths[group] - low] - sums[starts[group] - low]
        begin = end
    return counts


def pad_lines(arrays: list[Ids], pad_id: int) -> tuple[Ids, Ids]:
    """(ids, attention_mask), both (lines, longest): the lines padded at their end."""
    longest = max(len(array) for array in arrays)
    ids = np.full((len(arrays), longest), pad_id, np.int64)
    attention_mask = np.zeros_like(ids)
    for row, array in enumerate(arrays):
        ids[row, : len(array)] = array
        attention_mask[row, : len(array)] = 1
    return ids, attention_mask


# -------------------------------------------------------------------------------------- order


def epoch_order(n: int, seed: int, epoch: int) -> Ids:
    """The order of `n` sequences in an epoch: a permutation of 0 ... n - 1."""
    return rng(seed, "order", epoch).permutation(n)


def length_grouped_batches(lengths: Ids, batch_size: int, seed: int, epoch: int) -> list[Ids]:
    """Indices of an epoch's batches, each of lines of similar length; every line once.

    As DistilBERT groups: shuffle all lines, sort within stretches of 100 batches, cut into batches,
    shuffle the batches. Only one batch is not full.
    """
    generator = rng(seed, "grouped order", epoch)
    order = generator.permutation(len(lengths))
    stretch = MEGA_BATCH * batch_size
    by_length = [
        part[np.argsort(-lengths[part], kind="stable")]
        for part in (order[i : i + stretch] for i in range(0, len(order), stretch))
    ]
    batches = [
        part[i : i + batch_size] for part in by_length for i in range(0, len(part), batch_size)
    ]
    return [batches[i] for i in generator.permutation(len(batches))]
