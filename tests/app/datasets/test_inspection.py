"""Files are read here or in a process of their own, with the same answer either way."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.datasets import inspection as check
from app.datasets.inspection import check_file
from app.datasets.schemas import DatasetFormat
from app.errors import AppError, Invalid, TooLarge, Unsupported

pytestmark = pytest.mark.integration

FILES: list[tuple[DatasetFormat, bytes]] = [
    ("txt", b"one\ntwo\n"),
    ("txt", b"la\0la"),
    ("txt", b"la\xff"),
    ("jsonl", b'{"text": "x", "more": "y"}\n'),
    ("jsonl", b"{"),
    ("csv", b"text\nla\n"),
]


def answer(path: Path, format: DatasetFormat) -> object:
    try:
        return check_file(path, format)
    except AppError as error:
        return type(error), error.detail


@pytest.mark.parametrize(("format", "data"), FILES)
def test_checks_in_process_and_apart_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: DatasetFormat, data: bytes
) -> None:
    path = tmp_path / "upload"
    path.write_bytes(data)
    here = answer(path, format)
    monkeypatch.setattr(check, "READ_HERE_BYTES", 0)
    assert answer(path, format) == here


def test_a_reader_that_dies_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b"PAR1")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Invalid, match="limits"):
        check_file(path, "parquet")


def test_the_kind_of_refusal_survives_the_way_back(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(b"la\0")
    with pytest.raises(Unsupported, match="binary"):
        check_file(path, "vocab_txt")
    with open(path, "wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(TooLarge):
        check_file(path, "tokenizer_json")


def test_more_rows_than_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    pq.write_table(pa.table({"text": pa.nulls(2**20 + 1, pa.string())}), path)
    with pytest.raises(Invalid, match="more rows than it has bytes"):
        check_file(path, "parquet")
