"""What a tokenizer loses of a text is counted, said, and refused where it is most of it."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from kdcore.config import DistillLines, FileCorpus, FolderTokenizer, TeacherConfig
from kdcore.data import token_cache as tokenised
from kdcore.data.batching import lines
from kdcore.data.corpora import open_corpus
from kdcore.data.text_facts import TextFacts
from kdcore.data.token_cache import TokenisedSplit, tokenise
from kdcore.data.tokenizers import TokenizerInfo, tokens_from_folder
from kdcore.data.vocabulary import SPECIAL_TOKENS
from kdcore.errors import DataError
from kdcore.events import ListSink, Log
from kdcore.run import execute
from kdcore.train.context import Completed

ENTRIES = [*SPECIAL_TOKENS, "the", "ki", "##ng", "cafe", "म"]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenizerInfo:
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(ENTRIES), encoding="utf-8")
    return tokens_from_folder(folder)


def split_of(text: str, folder: Path, tokens: TokenizerInfo, suffix: str = "txt") -> TokenisedSplit:
    """The training split of a file, of which another file is held out."""
    folder.mkdir(exist_ok=True)
    path, other = folder / f"a.{suffix}", folder / "b.txt"
    path.write_text(text, encoding="utf-8")
    other.write_text("the king\n", encoding="utf-8")
    if suffix != "txt":
        other = path
    corpus = open_corpus(FileCorpus(path=str(path), validation_path=str(other)))
    return tokenise(corpus, tokens, "train", folder / "cache", ListSink())


def test_every_loss_is_counted(tokens: TokenizerInfo, tmp_path: Path) -> None:
    text = "the king, the café\n\x01\nthe 漢字 king [MASK]\n"
    split = split_of(text, tmp_path, tokens)
    assert split.facts == TextFacts(
        documents=2,
        blank_documents=1,
        tokens=12,
        unknown_tokens=3,
        special_tokens=1,
        characters=31,
        unknown_characters=3,
        removed_characters=2,
        unknown_examples=[",", "漢", "字"],
    )
    assert split.facts.figures("eval_") == {
        "eval_unknown_token_share": 3 / 12,
        "eval_unknown_character_share": 3 / 31,
        "eval_removed_character_share": 2 / 31,
    }


def test_counts_come_with_the_cached_ids_and_never_without(
    tokens: TokenizerInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = split_of("the king\nthe 漢\n", tmp_path, tokens)
    [entry] = (tmp_path / "cache" / "tokenised").glob("*-train-v2")
    assert (entry / "facts.json").is_file()
    # What an older release cached under its own name is not taken.
    entry.rename(entry.with_name(entry.name.replace("-v2", "-v1")))
    assert split_of("the king\nthe 漢\n", tmp_path, tokens).facts == first.facts
    monkeypatch.setattr(tokenised, "_write", lambda *_: pytest.fail("tokenised again"))
    assert split_of("the king\nthe 漢\n", tmp_path, tokens).facts == first.facts


def test_rows_without_text_are_counted(tokens: TokenizerInfo, tmp_path: Path) -> None:
    rows = '{"text": "the king"}\n{"text": null}\n{"text": " "}\n{"text": "\\u0001"}\n'
    facts = split_of(rows, tmp_path, tokens, "jsonl").facts
    assert (facts.documents, facts.blank_documents) == (1, 3)


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("the king\n" * 200 + "the 漢\n", ["info"]),
        ("the king\n" * 10 + "the 漢\n", ["warning"]),
        ("the king\nthe café\n", ["info", "warning"]),
        ("the king\n" * 200 + "the café\n", ["info", "info"]),
        ("म king\nमे मैं मु the king\n", ["info", "warning"]),
        # One token in 200, most of the characters.
        ("the king\n" * 100 + "tgc" * 5000 + "\n", ["warning"]),
    ],
)
def test_losses_above_one_percent_are_warned_of(
    tokens: TokenizerInfo, tmp_path: Path, text: str, levels: list[str]
) -> None:
    sink = ListSink()
    split_of(text, tmp_path, tokens).facts.say("the training text", sink)
    assert [event.level for event in sink.of_type(Log)] == levels
    assert all(e.message.startswith("the training text: ") for e in sink.of_type(Log))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("漢字漢字 the\n" * 40, r"the training text: 80% .* such as '漢', '字': use a tokenizer"),
        (
            "gattaca" * 20 + "\n" + "tgc" * 50 + "\nthe\n",
            r"'gattacagattacagattac\.\.\. \(140 characters\)'.*words of more than 100 characters",
        ),
        (
            "the king\n" * 100 + "tgc" * 5000 + "\n",
            r"0% of the tokens are unknown.* with 96% of the characters inside them",
        ),
    ],
)
def test_a_text_that_is_mostly_unknown_is_refused_before_training(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(ENTRIES), encoding="utf-8")
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt").write_text("the king\n" * 40, encoding="utf-8")
    corpus = FileCorpus(path=str(tmp_path / "a.txt"), validation_path=str(tmp_path / "b.txt"))
    config = TeacherConfig(corpus=corpus, tokenizer=FolderTokenizer(path=str(tmp_path)))
    sink = ListSink()
    with pytest.raises(DataError, match=message):
        execute(config, tmp_path / "out", sink, device="cpu")
    assert "warning" in {event.level for event in sink.of_type(Log)}


def test_shares_of_characters_are_never_above_one() -> None:
    facts = TextFacts(characters=4)
    facts.add_unknown("a bc d 漢", [(0, 3), (3, 7), (7, 8), (7, 8), (7, 8)])
    assert facts.unknown_characters == 5


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "removed"),
    [
        (None, None, 0),
        (normalizers.Replace("k", ""), None, 1),
        (None, pre_tokenizers.Punctuation("removed"), 2),
        (normalizers.StripAccents(), pre_tokenizers.CharDelimiterSplit("k"), 1),
        (None, pre_tokenizers.ByteLevel(), 0),
    ],
)
def test_whatever_removes_characters_is_counted(
    normalizer: Any, pre_tokenizer: Any, removed: int
) -> None:
    core = Tokenizer(models.WordPiece({"[UNK]": 0}))
    if normalizer:
        core.normalizer = normalizer
    if pre_tokenizer:
        core.pre_tokenizer = pre_tokenizer
    facts = TextFacts()
    facts.add_characters(Counter("the king, é!"), core)
    assert (facts.characters, facts.removed_characters) == (10, removed)


def test_lines_are_counted_by_what_became_of_them(tokens: TokenizerInfo, tmp_path: Path) -> None:
    text = "the king\n" * 3 + "the\n" * 5 + "漢字漢 the\n" * 7 + "the king the king the king the\n"
    split = split_of(text, tmp_path, tokens)
    kept = lines(split, tokens, DistillLines(min_tokens=5, max_unknown=0.5), max_positions=8)
    assert kept.figures() == {
        "lines": 5,
        "lines_split": 1,
        "lines_too_short": 5,
        "lines_too_unknown": 7,
    }
    hopeless = split_of("the\n" * 8 + "漢字漢 the\n" * 7, tmp_path / "b", tokens)
    with pytest.raises(DataError, match=r"\(8 are too short, 7 have too many unknown tokens\)"):
        lines(hopeless, tokens, DistillLines(min_tokens=5), 512)


def test_the_model_card_tells_what_was_lost(tmp_path: Path) -> None:
    """A vocabulary of another language than the text's, cased, with a table that has gaps."""
    (tmp_path / "vocab.txt").write_text("\n".join([*ENTRIES, "The"]), encoding="utf-8")
    rows = "".join(f"{i};The café king\n" for i in range(60)) + "60; \n"
    (tmp_path / "a.csv").write_text("\ufeffid; text\n" + rows, encoding="utf-8")
    config = TeacherConfig.model_validate(
        {
            "corpus": FileCorpus(path=str(tmp_path / "a.csv")),
            "tokenizer": FolderTokenizer(path=str(tmp_path)),
            "model": {"layers": 1, "hidden_size": 8, "heads": 1, "intermediate_size": 8}
            | {"source": "scratch"},
            "seq_len": 8,
            "schedule": {"max_steps": 1},
        }
    )
    ended = execute(config, tmp_path / "out", ListSink(), device="cpu")
    assert isinstance(ended, Completed)
    assert ended.summary["unknown_token_share"] == 0.25
    assert ended.summary["unknown_character_share"] == 4 / 11
    assert ended.summary["removed_character_share"] == 0
    card = (tmp_path / "out" / "model" / "README.md").read_text(encoding="utf-8")
    assert "| Unknown tokens (training) | 25.00 % |" in card
    assert "| Unknown tokens (held-out) | 25.00 % |" in card
    assert "| Empty documents | 1 |" in card
    assert "| Tokenizer | vocab.txt is cased: the text is not" in card
