"""Trained tokenizers are the same everywhere and cached; loaded ones are checked."""

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from app.datasets.tokenizer_files import check_tokenizer_json
from kdcore.config import (
    FileCorpus,
    FolderTokenizer,
    ModelTokenizer,
    UploadTokenizer,
    WordPieceTokenizer,
)
from kdcore.data.corpora import CorpusText, open_corpus
from kdcore.data.token_cache import tokenise
from kdcore.data.tokenizers import TokenizerInfo, load_tokenizer, tokens_from_folder
from kdcore.data.vocabulary import SPECIAL_TOKENS
from kdcore.errors import DataError
from kdcore.events import ListSink, Log, Progress

RELEASES = Path(__file__).parents[2] / "fixtures" / "releases"

VOCABULARY = [*SPECIAL_TOKENS, "the", "ki", "##ng", "e", "\u2028"]

TRAIN = """
import sys
from pathlib import Path
from kdcore.config import FileCorpus, WordPieceTokenizer
from kdcore.data.corpora import open_corpus
from kdcore.events import ListSink, Log, Progress
from kdcore.data.tokenizers import load_tokenizer
corpus = open_corpus(FileCorpus(path=sys.argv[1]))
sink = ListSink()
tokens = load_tokenizer(WordPieceTokenizer(vocab_size=300), corpus, Path(sys.argv[2]), sink, None)
print(tokens.fingerprint, len(sink.of_type(Progress)))
"""


def trained(corpus: FileCorpus, cache_dir: Path, vocab_size: int, sink: ListSink) -> TokenizerInfo:
    config = WordPieceTokenizer(vocab_size=vocab_size)
    return load_tokenizer(config, open_corpus(corpus), cache_dir, sink, None)


def vocab_folder(folder: Path, entries: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    return folder


def test_trained_tokenizer_is_a_lower_casing_wordpiece(corpus: FileCorpus, tmp_path: Path) -> None:
    tokens = trained(corpus, tmp_path, 220, ListSink())
    assert tokens.vocab_size == len(tokens.hf) <= 220
    assert tokens.special_ids == {
        tokens.pad_id, tokens.unk_id, tokens.cls_id, tokens.sep_id, tokens.mask_id
    }  # fmt: skip
    assert tokens.hf.tokenize("The KING\tand the quéén") == tokens.hf.tokenize(
        "the king and the queen"
    )
    assert "king" in tokens.hf.tokenize("king")
    assert tokens.hf.tokenize("漢") == ["[UNK]"]
    encoded = tokens.hf("king [MASK]")["input_ids"]
    assert (encoded[0], encoded[-2], encoded[-1]) == (tokens.cls_id, tokens.mask_id, tokens.sep_id)


@pytest.fixture(scope="module")
def babel(tmp_path_factory: pytest.TempPathFactory) -> FileCorpus:
    """Many words of many letters, so that every vocabulary is filled."""
    source = random.Random(0)
    alphabets = (range(0x61, 0x7B), range(0x3B1, 0x3CA), range(0x430, 0x450), range(0x561, 0x587))
    letters = [chr(code) for alphabet in alphabets for code in alphabet]
    words = ["".join(source.choices(letters, k=8)) for _ in range(500)]
    path = tmp_path_factory.mktemp("babel") / "a.txt"
    path.write_text("\n".join(" ".join(source.choices(words, k=20)) for _ in range(500)))
    return FileCorpus(path=str(path))


@pytest.mark.parametrize("vocab_size", [200, 500, 1500])
def test_vocabulary_is_never_larger_than_asked(babel, tmp_path: Path, vocab_size: int) -> None:
    assert trained(babel, tmp_path, vocab_size, ListSink()).vocab_size == vocab_size


def test_endless_words_do_not_stall_training(corpus: FileCorpus, tmp_path: Path) -> None:
    source = random.Random(0)
    noise = "".join(source.choices("abcdefghijklmnop", k=4 * 2**20))
    path = tmp_path / "a.txt"
    path.write_text(noise + "\n" + Path(corpus.path).read_text())
    noisy = trained(FileCorpus(path=str(path)), tmp_path, 200, ListSink())
    assert "king" in noisy.hf.tokenize("king")


def test_training_is_cached_by_corpus_and_size(babel: FileCorpus, tmp_path: Path) -> None:
    corpus = babel
    first, second, other = ListSink(), ListSink(), ListSink()
    one = trained(corpus, tmp_path, 220, first)
    assert trained(corpus, tmp_path, 220, second).fingerprint == one.fingerprint
    assert trained(corpus, tmp_path, 210, other).fingerprint != one.fingerprint
    assert first.events
    assert not second.of_type(Progress)
    assert other.events


def test_a_damaged_cache_is_rebuilt(corpus: FileCorpus, tmp_path: Path) -> None:
    one = trained(corpus, tmp_path, 220, ListSink())
    [vocab] = tmp_path.glob("tokenizers/*/vocab.txt")
    vocab.write_text(vocab.read_text().replace("king", "kink"))
    sink = ListSink()
    assert trained(corpus, tmp_path, 220, sink).fingerprint == one.fingerprint
    assert "damaged" in sink.of_type(Log)[0].message


@pytest.mark.integration
def test_two_processes_train_the_same_tokenizer_once_or_twice(
    corpus: FileCorpus, tmp_path: Path
) -> None:
    def start(cache: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", TRAIN, corpus.path, str(tmp_path / cache)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    processes = [start("shared"), start("shared"), start("alone")]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    assert not any("TOKENIZERS_PARALLELISM" in error for _, error in answers)
    prints, progress = zip(*(output.split() for output, _ in answers), strict=True)
    assert len(set(prints)) == 1
    # Of the two that share a cache, one built and the other waited.
    assert sorted(progress[:2])[0] == "0"
    assert progress[2] != "0"


def test_saved_tokenizer_loads_as_the_same(corpus: FileCorpus, tmp_path: Path) -> None:
    tokens = trained(corpus, tmp_path / "cache", 220, ListSink())
    tokens.hf.save_pretrained(tmp_path / "saved")
    config = FolderTokenizer(path=str(tmp_path / "saved"))
    loaded = load_tokenizer(config, open_corpus(corpus), tmp_path, ListSink(), None)
    beside_model = load_tokenizer(
        ModelTokenizer(), open_corpus(corpus), tmp_path, ListSink(), tmp_path / "saved"
    )
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokens.fingerprint == loaded.fingerprint == beside_model.fingerprint
    assert auto("the king ruled")["input_ids"] == tokens.hf("the king ruled")["input_ids"]


def test_bare_tokenizer_json_loads_as_the_same(corpus: FileCorpus, tmp_path: Path) -> None:
    tokens = trained(corpus, tmp_path / "cache", 220, ListSink())
    tokens.hf.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = tokens_from_folder(tmp_path)
    assert loaded.fingerprint == tokens.fingerprint
    assert loaded.special_ids == tokens.special_ids
    assert loaded.hf("the king")["input_ids"] == tokens.hf("the king")["input_ids"]
    loaded.hf.save_pretrained(tmp_path / "again")
    assert tokens_from_folder(tmp_path / "again").fingerprint == tokens.fingerprint


def test_bare_vocab_txt_loads(tmp_path: Path) -> None:
    tokens = tokens_from_folder(vocab_folder(tmp_path / "vocab", VOCABULARY))
    assert tokens.vocab_size == len(VOCABULARY)
    assert (tokens.pad_id, tokens.unk_id, tokens.cls_id, tokens.sep_id, tokens.mask_id) == (
        0, 1, 2, 3, 4
    )  # fmt: skip
    assert tokens.hf.tokenize("The King é xyz") == ["the", "ki", "##ng", "e", "[UNK]"]


def test_fingerprint_follows_what_decides_the_ids(tmp_path: Path) -> None:
    lower = tokens_from_folder(vocab_folder(tmp_path / "a", VOCABULARY))
    longer = tokens_from_folder(vocab_folder(tmp_path / "b", [*VOCABULARY, "more"]))
    cased = transformers.BertTokenizer(
        vocab={entry: i for i, entry in enumerate(VOCABULARY)}, do_lower_case=False
    )
    cased.save_pretrained(tmp_path / "c")
    prints = {lower.fingerprint, longer.fingerprint, tokens_from_folder(tmp_path / "c").fingerprint}
    assert len(prints) == 3


def test_tokenizer_without_mask_token_is_refused(tmp_path: Path) -> None:
    core = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    core.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="has no pad, cls, sep, mask token"):
        tokens_from_folder(tmp_path)
    with pytest.raises(DataError, match=r"vocab\.txt has no mask token"):
        tokens_from_folder(vocab_folder(tmp_path / "vocab", [*SPECIAL_TOKENS[:4], "a"]))


def test_unreadable_tokenizers_are_refused_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither tokenizer\.json nor vocab\.txt"):
        tokens_from_folder(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(DataError, match="not UTF-8: an invalid byte at byte 6"):
        tokens_from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer\.json holds no tokenizer"):
        tokens_from_folder(tmp_path)


def vocabulary_file(folder: Path, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_bytes(content)
    return folder


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_vocabulary_of_any_editor_gives_the_same_ids(
    tmp_path: Path, start: bytes, ending: str
) -> None:
    plain = tokens_from_folder(vocab_folder(tmp_path / "plain", VOCABULARY))
    content = start + ending.join([*VOCABULARY, ""]).encode()
    assert tokens_from_folder(vocabulary_file(tmp_path / "a", content)).fingerprint == (
        plain.fingerprint
    )


def test_double_entries_are_named_with_their_lines(tmp_path: Path) -> None:
    folder = vocab_folder(tmp_path / "a", [*SPECIAL_TOKENS, "the", "a", "the"])
    with pytest.raises(DataError, match="entry 'the' twice, on line 6 and line 8"):
        tokens_from_folder(folder)


@pytest.mark.parametrize(
    ("entries", "text", "pieces", "remark"),
    [
        (["The", "the", "River"], "The River the", ["The", "River", "the"], "is cased"),
        (["the", "é", "über"], "The É über", ["the", "é", "über"], "lower-cased only"),
        (["में", "मैं"], "में मैं", ["में", "मैं"], "lower-cased only"),
        (["the", "e", "[unused1]"], "The É", ["the", "e"], "accents are stripped"),
    ],
)
def test_a_vocabulary_decides_how_text_is_cut_for_it(
    tmp_path: Path, entries: list[str], text: str, pieces: list[str], remark: str
) -> None:
    folder = vocab_folder(tmp_path / "vocab", [*SPECIAL_TOKENS, *entries])
    sink = ListSink()
    corpus = tmp_path / "a.txt"
    corpus.write_text("a\nb\n")
    config = FolderTokenizer(path=str(folder))
    text_of = open_corpus(FileCorpus(path=str(corpus)))
    tokens = load_tokenizer(config, text_of, tmp_path, sink, None)
    assert tokens.hf.tokenize(text) == pieces
    assert [remark in event.message for event in sink.of_type(Log)] == [True]
    tokens.hf.save_pretrained(tmp_path / "saved")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "saved").tokenize(text) == pieces


# ------------------------------------------------------------------------- scripts of the world


def written_corpus(folder: Path, words: list[str], join: str = " ") -> FileCorpus:
    source = random.Random(0)
    path = folder / "script.txt"
    lines = [join.join(source.choices(words, k=20)) for _ in range(400)]
    path.write_text("\n".join([*lines, *(join.join(words) for _ in range(4))]), encoding="utf-8")
    return FileCorpus(path=str(path))


def unknown_share(tokens: TokenizerInfo, corpus: FileCorpus) -> float:
    ids = [i for line in open_corpus(corpus).documents("train") for i in tokens.hf(line).input_ids]
    return ids.count(tokens.unk_id) / len(ids)


@pytest.mark.parametrize("said", [None, False, True])
def test_a_saved_vocabulary_of_capitals_must_say_whether_text_is_lower_cased(
    tmp_path: Path, said: bool | None
) -> None:
    folder = vocab_folder(tmp_path, [*VOCABULARY, "The", "t", "##he"])
    config = {"tokenizer_class": "BertTokenizer"} | (
        {} if said is None else {"do_lower_case": said}
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if said is None:
        with pytest.raises(DataError, match="does not say do_lower_case"):
            tokens_from_folder(folder)
    else:
        assert tokens_from_folder(folder).hf.tokenize("The") == ["the" if said else "The"]
    vocab_folder(tmp_path, VOCABULARY)
    assert tokens_from_folder(folder).hf.tokenize("The")


def test_the_alphabet_grows_with_the_script(tmp_path: Path) -> None:
    corpus = written_corpus(tmp_path, [chr(0x4E00 + i) for i in range(2500)], join="")
    sink = ListSink()
    assert unknown_share(trained(corpus, tmp_path, 3000, sink), corpus) == 0
    assert not sink.of_type(Log)
    small = ListSink()
    tokens = trained(corpus, tmp_path, 2000, small)
    assert tokens.vocab_size == 2000
    assert 0.1 < unknown_share(tokens, corpus) < 0.3
    [event] = small.of_type(Log)
    assert "has room for 1,995 of the 2,500 characters" in event.message
    assert "raise tokenizer.vocab_size" in event.message


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["में", "मैं", "चक्की", "पुल"], True),
        (["ที่", "น้ำ"], True),
        (["й", "ещё", "край"], True),
        (["café", "naïve", "über"], False),
    ],
    ids=["hindi", "thai", "russian", "latin"],
)
def test_marks_are_kept_where_they_carry_meaning(
    tmp_path: Path, words: list[str], kept: bool
) -> None:
    corpus = written_corpus(tmp_path, words)
    sink = ListSink()
    tokens = trained(corpus, tmp_path, 300, sink)
    assert (tokens.hf.backend_tokenizer.normalizer.normalize_str(words[0]) == words[0]) is kept
    said = [event for event in sink.of_type(Log) if "vowel signs are kept" in event.message]
    assert len(said) == kept
    other = WordPieceTokenizer(vocab_size=300, strip_accents="always" if kept else "never")
    chosen = load_tokenizer(other, open_corpus(corpus), tmp_path, ListSink(), None)
    assert (chosen.hf.backend_tokenizer.normalizer.normalize_str(words[0]) == words[0]) is not kept


def test_a_cased_vocabulary_can_be_trained(corpus: FileCorpus, tmp_path: Path) -> None:
    mixed = written_corpus(tmp_path, ["River", "river", "École"])
    config = WordPieceTokenizer(vocab_size=300, cased=True)
    tokens = load_tokenizer(config, open_corpus(mixed), tmp_path, ListSink(), None)
    assert tokens.hf.tokenize("River river École") == ["River", "river", "École"]
    tokens.hf.save_pretrained(tmp_path / "saved")
    assert tokens_from_folder(tmp_path / "saved").fingerprint == tokens.fingerprint


def test_text_of_endless_words_is_refused_with_the_reason(tmp_path: Path) -> None:
    source = random.Random(0)
    corpus = written_corpus(tmp_path, ["".join(source.choices("ACGT", k=50)) for _ in "abc"], "")
    with pytest.raises(DataError, match=r"longer than 100 characters.*put spaces"):
        trained(corpus, tmp_path, 300, ListSink())


# ------------------------------------------------------------------ added tokens and their roles


def wordpiece(added: list[tokenizers.AddedToken], **model: object) -> tokenizers.Tokenizer:
    """A bare tokenizer.json as people make them: no post-processor, but padding, truncation."""
    entries = [*SPECIAL_TOKENS, "old", "mill", "fish", "##ed", "u", "##ser", "[", "]", "é"]
    core = tokenizers.Tokenizer(
        models.WordPiece({e: i for i, e in enumerate(entries)}, unk_token="[UNK]", **model)
    )
    core.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.add_special_tokens(list(SPECIAL_TOKENS))
    core.add_tokens(added)
    core.enable_truncation(16)
    core.enable_padding(length=16)
    return core


def saved(core: tokenizers.Tokenizer, folder: Path) -> TokenizerInfo:
    folder.mkdir()
    core.save(str(folder / "tokenizer.json"))
    return tokens_from_folder(folder)


KNOWN = [*SPECIAL_TOKENS, "a", "b", "\U0001f9ff"]
IDS = {token: index for index, token in enumerate(KNOWN)}
FLAGS = ["single_word", "lstrip", "rstrip", "normalized", "special"]


def test_whatever_decides_the_ids_is_in_the_fingerprint(tmp_path: Path) -> None:
    def token(**flags: bool) -> tokenizers.AddedToken:
        return tokenizers.AddedToken("[user]", **{"normalized": False, **flags})

    cores = [wordpiece([token(**{flag: True})]) for flag in FLAGS]
    cores += [wordpiece([token()]), wordpiece([]), wordpiece([], max_input_chars_per_word=7)]
    found = [saved(core, tmp_path / str(i)).fingerprint for i, core in enumerate(cores)]
    assert len(set(found)) == len(cores)


def test_the_fingerprints_of_an_older_release_still_hold() -> None:
    teacher = RELEASES / "0.1.0" / "backup" / "artifacts" / "n0hq1huxldfo" / "1"
    assert tokens_from_folder(teacher).fingerprint == "4cf36085748ddef8047912cc996564ee"


SPELLED = st.sampled_from(
    ["[USER]", "[user]", "[MASK]", "[SEP]", "[PAD]", "[UNK]", "old", "mill", "fished", " ", "é"]
)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenizerInfo, Any]:
    """What trains, and what its user loads."""
    folder = tmp_path_factory.mktemp("delivered")
    added = [
        tokenizers.AddedToken("[USER]", special=True, normalized=True),
        tokenizers.AddedToken("old mill", lstrip=True),
        tokenizers.AddedToken("fish", single_word=True, special=True),
    ]
    tokens = saved(wordpiece(added), folder / "uploaded")
    tokens.hf.save_pretrained(folder / "saved")
    return tokens, transformers.AutoTokenizer.from_pretrained(folder / "saved")


@given(text=st.lists(SPELLED | st.text(max_size=8), min_size=1).map("".join))
@settings(max_examples=60, deadline=None)
def test_what_trains_and_what_is_delivered_give_every_text_the_same_ids(
    delivered: tuple[TokenizerInfo, Any], text: str
) -> None:
    tokens, user = delivered
    corpus = CorpusText("", lambda split: iter([text, "old"]), {"train": 2, "validation": 0})
    with tempfile.TemporaryDirectory() as folder:
        split = tokenise(corpus, tokens, "train", Path(folder), ListSink())
        ids = split.token_ids.tolist()
    lines = [user(each)["input_ids"] for each in (text, "old")]
    assert ids == [i for line in lines if len(line) > 2 for i in line]


@pytest.mark.parametrize(
    "spelled",
    [("<pad>", "<unk>", "<s>", "</s>", "<mask>"), ("<|pad|>", "<|unk|>", "B", "E", "<|mask|>")],
)
def test_special_tokens_are_known_by_their_role(tmp_path: Path, spelled: tuple[str, ...]) -> None:
    pad, unk, cls, sep, mask = spelled
    core = tokenizers.Tokenizer(models.BPE(unk_token=None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(spelled),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["the old mill"], trainer)
    ends = [(token, core.token_to_id(token)) for token in (sep, cls)]
    core.post_processor = processors.RobertaProcessing(*ends)
    tokens = saved(core, tmp_path / "a")
    hf = tokens.hf
    found = (hf.pad_token, hf.unk_token, hf.cls_token, hf.sep_token, hf.mask_token)
    assert found == (pad, unk, cls, sep, mask)
    check_tokenizer_json(tmp_path / "a" / "tokenizer.json")


def test_of_several_spellings_the_usual_one_has_the_role(tmp_path: Path) -> None:
    entries = ["<s>", "</s>", *SPECIAL_TOKENS, "<|mask|>", "the"]
    tokens = tokens_from_folder(vocab_folder(tmp_path / "a", entries))
    assert (tokens.cls_id, tokens.sep_id, tokens.mask_id) == (4, 5, 6)


def test_the_unknown_token_of_a_unigram_model_is_known_by_its_place(tmp_path: Path) -> None:
    pieces = [(token, 0.0) for token in ("<pad>", "<cls>", "<sep>", "<mask>", "?unknown?")]
    core = tokenizers.Tokenizer(models.Unigram([*pieces, ("a", -1.0)], unk_id=4))
    tokens = saved(core, tmp_path / "a")
    assert tokens.hf.unk_token == "?unknown?"
    assert tokens.hf("a漢")["input_ids"] == [1, 5, 4, 2]


@pytest.mark.parametrize(
    "model",
    [
        models.BPE(IDS, [], unk_token=None),
        models.BPE(IDS, [], unk_token="<gone>"),
        models.WordLevel(IDS, unk_token="<gone>"),
        models.WordPiece(IDS, unk_token="<gone>"),
        models.Unigram([(token, -1.0) for token in KNOWN]),
    ],
)
@pytest.mark.parametrize("unknown", ["漢", "\U0001f9fe"])
def test_characters_beyond_the_alphabet_become_unknown_tokens(
    tmp_path: Path, model: models.Model, unknown: str
) -> None:
    core = tokenizers.Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    tokens = saved(core, tmp_path / "a")
    assert tokens.hf(f"a{unknown}b")["input_ids"] == [2, 5, 1, 6, 3]
    assert any("become [UNK]" in remark for remark in tokens.remarks)


def test_a_model_that_cannot_fall_back_on_its_unknown_token_is_refused(tmp_path: Path) -> None:
    core = tokenizers.Tokenizer(models.BPE({"a": 0}, [], unk_token=None))
    core.add_special_tokens(list(SPECIAL_TOKENS))
    with pytest.raises(DataError, match=r"\[UNK\] must be part of its vocabulary"):
        saved(core, tmp_path / "a")


def test_code_beside_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    vocab_folder(tmp_path, VOCABULARY)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: ...\n")
    config = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="cannot be loaded"):
        tokens_from_folder(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_unresolved_references_are_refused(corpus: FileCorpus, tmp_path: Path) -> None:
    text = open_corpus(corpus)
    for config in (UploadTokenizer(dataset_id="d7c2n5w8j4pf"), ModelTokenizer()):
        with pytest.raises(DataError):
            load_tokenizer(config, text, tmp_path, ListSink(), None)
