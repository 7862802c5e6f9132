"""Tokenised once, packed without loss, and drawn in an order that a seed fixes."""

import math
import multiprocessing
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kdcore.config import DistillLines, FileCorpus, WordPieceTokenizer
from kdcore.data.batching import Lines, epoch_order, length_grouped_batches, lines, pack, pad_lines
from kdcore.data.corpora import CorpusText, open_corpus
from kdcore.data.masking import mask_uniform
from kdcore.data.token_cache import TokenisedSplit, token_counts, tokenise, unigram_entropy
from kdcore.data.tokenizers import TokenizerInfo, load_tokenizer
from kdcore.errors import DataError
from kdcore.events import ListSink, Log, Progress
from kdcore.rng import rng


@pytest.fixture(scope="module")
def text(corpus: FileCorpus) -> CorpusText:
    return open_corpus(corpus)


@pytest.fixture(scope="module")
def tokens(text: CorpusText, tmp_path_factory: pytest.TempPathFactory) -> TokenizerInfo:
    cache = tmp_path_factory.mktemp("tokenizer")
    return load_tokenizer(WordPieceTokenizer(vocab_size=220), text, cache, ListSink(), None)


@pytest.fixture(scope="module")
def split(text: CorpusText, tokens: TokenizerInfo, tmp_path_factory) -> TokenisedSplit:
    return tokenise(text, tokens, "train", tmp_path_factory.mktemp("split"), ListSink())


def by_hand(*inner: list[int], tokens: TokenizerInfo) -> TokenisedSplit:
    """A split in memory whose lines hold `inner`."""
    wrapped = [[tokens.cls_id, *ids, tokens.sep_id] for ids in inner]
    offsets = np.cumsum([0, *map(len, wrapped)])
    flat = [i for line in wrapped for i in line]
    return TokenisedSplit(np.array(flat, np.uint16), offsets)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------- tokenising


def test_every_document_is_one_line_of_its_ids(text, tokens, split) -> None:
    documents = list(text.documents("train"))
    assert len(split.offsets) == len(documents) + 1
    assert split.offsets[-1] == len(split.token_ids)
    assert split.token_ids.dtype == np.uint16
    for i in (0, 1, len(documents) - 1):
        line = split.token_ids[split.offsets[i] : split.offsets[i + 1]]
        assert line.tolist() == tokens.hf(documents[i])["input_ids"]


def test_cache_is_reused_and_read_only(text, tokens, tmp_path: Path) -> None:
    first, second = ListSink(), ListSink()
    one = tokenise(text, tokens, "train", tmp_path, first)
    again = tokenise(text, tokens, "train", tmp_path, second)
    assert (one.token_ids == again.token_ids).all()
    assert first.of_type(Progress)
    assert not second.events
    with pytest.raises(ValueError, match="read-only"):
        one.token_ids[0] = 1


def test_progress_says_how_far(text, tokens, tmp_path: Path) -> None:
    sink = ListSink()
    tokenise(text, tokens, "validation", tmp_path, sink)
    events = sink.of_type(Progress)
    assert {(e.phase, e.total, e.unit) for e in events} == {("tokenising", 80, "documents")}
    assert (events[0].done, events[-1].done, events[-1].eta_s) == (0, 80, 0.0)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.bin", "manifest.json"])
@pytest.mark.parametrize("damage", [truncate, flip_a_byte, Path.unlink])
def test_a_torn_or_damaged_entry_is_rebuilt(text, tokens, tmp_path: Path, name, damage) -> None:
    whole = np.array(tokenise(text, tokens, "validation", tmp_path, ListSink()).token_ids)
    [path] = tmp_path.glob(f"tokenised/*/{name}")
    damage(path)
    sink = ListSink()
    assert (tokenise(text, tokens, "validation", tmp_path, sink).token_ids == whole).all()
    assert "damaged" in sink.of_type(Log)[0].message


def test_leftovers_of_a_killed_build_are_cleared(text, tokens, tmp_path: Path) -> None:
    tokenise(text, tokens, "validation", tmp_path, ListSink())
    [place] = (p for p in (tmp_path / "tokenised").iterdir() if p.is_dir())
    leftover = place.with_name(f"{place.name}.tmp-killed")
    place.rename(leftover)
    tokenise(text, tokens, "validation", tmp_path, ListSink())
    assert place.is_dir()
    assert not leftover.exists()


def build_and_count(corpus: FileCorpus, cache_dir: Path, barrier, answers) -> None:
    sink = ListSink()
    text = open_corpus(corpus)
    config = WordPieceTokenizer(vocab_size=220)
    tokens = load_tokenizer(config, text, cache_dir, ListSink(), None)
    barrier.wait()
    split = tokenise(text, tokens, "train", cache_dir, sink)
    answers.put((int(split.token_ids.sum()), len(sink.of_type(Progress)) > 0))


@pytest.mark.integration
def test_two_processes_build_an_entry_once(corpus: FileCorpus, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=build_and_count, args=(corpus, tmp_path, barrier, answers))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    sums, built = zip(*(answers.get(timeout=120) for _ in processes), strict=True)
    for process in processes:
        process.join()
    assert len(set(sums)) == 1
    assert sorted(built) == [False, True]


def test_text_that_spells_special_tokens_is_cut_as_where_the_model_is_used(
    tokens: TokenizerInfo, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("the [MASK] king [SEP] [PAD] queen\n" * 40)
    split = tokenise(open_corpus(FileCorpus(path=str(path))), tokens, "train", tmp_path, ListSink())
    line = np.asarray(split.token_ids[: split.offsets[1]], np.int64)
    assert line.tolist() == tokens.hf("the [MASK] king [SEP] [PAD] queen")["input_ids"]
    assert {tokens.mask_id, tokens.pad_id} < set(line.tolist())
    # Of what is to be predicted, none is a special token.
    _, labels = mask_uniform(
        line[None], tokens.special_ids, tokens.mask_id, tokens.vocab_size, 0.9, rng(0, "test")
    )
    assert not set(labels.ravel().tolist()) & tokens.special_ids


def test_text_of_control_characters_only_is_refused(tokens: TokenizerInfo, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\x01\x02\n" * 40)
    text = open_corpus(FileCorpus(path=str(path)))
    with pytest.raises(DataError, match="train split of the corpus holds no text"):
        tokenise(text, tokens, "train", tmp_path / "cache", ListSink())


def test_counts_and_entropy_are_those_of_the_ordinary_tokens(tokens, split) -> None:
    counts = Counter(split.token_ids.tolist())
    assert token_counts(split, tokens.vocab_size).tolist() == [
        counts[i] for i in range(tokens.vocab_size)
    ]
    ordinary = {i: n for i, n in counts.items() if i not in tokens.special_ids}
    total = sum(ordinary.values())
    expected = -sum(n / total * math.log(n / total) for n in ordinary.values())
    assert unigram_entropy(split, tokens.vocab_size, tokens.special_ids) == pytest.approx(expected)


# ---------------------------------------------------------------------------- packed and lines


@pytest.mark.parametrize("seq_len", [8, 100, 128])
def test_packing_loses_only_the_remainder(split: TokenisedSplit, seq_len: int) -> None:
    packed = pack(split, seq_len)
    assert packed.shape == (len(split.token_ids) // seq_len, seq_len)
    assert (packed.ravel() == split.token_ids[: packed.size]).all()
    assert len(split.token_ids) - packed.size < seq_len
    assert np.shares_memory(packed, split.token_ids)


def test_text_shorter_than_a_sequence_is_refused(split: TokenisedSplit) -> None:
    with pytest.raises(DataError, match="fewer than one sequence of 10000000"):
        pack(split, 10_000_000)


def test_lines_are_filtered_split_and_wrapped_again(tokens: TokenizerInfo) -> None:
    unk = tokens.unk_id
    split = by_hand(
        [10, 11], [*range(20, 43)], [unk, unk, 12, 13], [unk, unk, unk, 12], [7] * 4, tokens=tokens
    )
    options = DistillLines(min_tokens=6, max_tokens=12, max_unknown=0.5)
    kept = lines(split, tokens, options, max_positions=512)
    cls, sep = tokens.cls_id, tokens.sep_id
    assert [kept.get(i).tolist() for i in range(len(kept))] == [
        [cls, *range(20, 30), sep],
        [cls, *range(30, 40), sep],
        [cls, unk, unk, 12, 13, sep],
        [cls, 7, 7, 7, 7, sep],
    ]
    assert kept.lengths.tolist() == [12, 12, 6, 6]


def test_lines_hold_every_token_of_a_real_text(
    split: TokenisedSplit, tokens: TokenizerInfo
) -> None:
    kept = lines(split, tokens, DistillLines(min_tokens=3, max_unknown=1.0), max_positions=9)
    inner = np.concatenate([kept.get(i)[1:-1] for i in range(len(kept))])
    ordinary = np.isin(split.token_ids, [tokens.cls_id, tokens.sep_id], invert=True)
    assert (inner == split.token_ids[ordinary]).all()
    assert kept.lengths.max() == 9


def test_unknown_shares_do_not_depend_on_the_stretch(split, tokens, monkeypatch) -> None:
    whole = lines(split, tokens, DistillLines(max_unknown=0.1), 20)
    monkeypatch.setattr("kdcore.data.batching._CHUNK_TOKENS", 100)
    assert (lines(split, tokens, DistillLines(max_unknown=0.1), 20).lengths == whole.lengths).all()


def test_no_line_left_is_refused(split: TokenisedSplit, tokens: TokenizerInfo) -> None:
    with pytest.raises(DataError, match="no line of the text has 400 to 512 tokens"):
        lines(split, tokens, DistillLines(min_tokens=400), 512)


def test_padding_is_marked() -> None:
    ids, attention = pad_lines([np.array([1, 2, 3]), np.array([4])], pad_id=9)
    assert ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert attention.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert ids.dtype == attention.dtype == np.int64


# --------------------------------------------------------------------------------------- order


def test_epoch_order_is_a_permutation_that_seed_and_epoch_fix() -> None:
    order = epoch_order(1000, 3, 0)
    assert sorted(order) == list(range(1000))
    assert (order == epoch_order(1000, 3, 0)).all()
    for other in (epoch_order(1000, 3, 1), epoch_order(1000, 4, 0), np.arange(1000)):
        assert (order == other).mean() < 0.02


@pytest.mark.parametrize(("n", "batch_size"), [(1, 4), (1000, 1), (5003, 8), (800, 8)])
def test_grouped_batches_hold_every_line_once(n: int, batch_size: int) -> None:
    lengths = rng(0, "lengths").integers(12, 512, size=n)
    batches = length_grouped_batches(lengths, batch_size, 0, 0)
    assert sorted(np.concatenate(batches)) == list(range(n))
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)
    again = length_grouped_batches(lengths, batch_size, 0, 0)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


def test_grouped_batches_hold_similar_lengths_in_random_order() -> None:
    lengths = rng(0, "lengths").integers(12, 512, size=8000)
    batches = length_grouped_batches(lengths, 16, 0, 0)
    padding = 1 - lengths.sum() / sum(lengths[b].max() * len(b) for b in batches)
    assert padding < 0.05
    means = [lengths[b].mean() for b in batches]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.2
    other = length_grouped_batches(lengths, 16, 0, 1)
    assert {frozenset(b.tolist()) for b in batches} != {frozenset(b.tolist()) for b in other}


def test_random_streams_differ_by_seed_stream_and_counters() -> None:
    keys = [
        (0, "a"),
        (1, "a"),
        (0, "b"),
        (0, "a", 0),
        (0, "a", 1),
        (0, "a", 0, 0),
        (2**63 - 1, "a"),
    ]
    draws = [rng(*key).random(4).tobytes() for key in keys]
    assert len(set(draws)) == len(keys)
    assert rng(5, "a", 1, 2).random() == rng(5, "a", 1, 2).random()


def test_random_numbers_are_the_same_on_every_machine() -> None:
    assert rng(0, "order", 1).integers(1_000_000, size=3).tolist() == [402846, 622, 642932]


def test_lines_type_knows_its_length(split: TokenisedSplit, tokens: TokenizerInfo) -> None:
    kept = lines(split, tokens, DistillLines(), 64)
    assert isinstance(kept, Lines)
    assert len(kept) == len(kept.lengths)
