"""Files of every format are read in bounded memory, and hostile ones are refused in words."""

import csv
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcore.data import text_files as textfiles
from kdcore.data.text_files import MAX_DOCUMENT_CHARS, read_documents
from kdcore.errors import DataError

MIB = 2**20


def documents(path: Path, column: str = "text") -> list[str]:
    format = textfiles.format_of(path)
    return [piece for pieces in read_documents(path, format, column) for piece in pieces]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def peak_mib(action: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def test_text_gives_its_non_blank_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "\ufeffone\r\n\r\n  \t\ntwo é 漢\rthree\u2028still three")
    assert documents(path) == ["one", "two é 漢", "three\u2028still three"]


def test_characters_and_line_ends_across_chunks_survive(tmp_path: Path, monkeypatch) -> None:
    text = "aé漢😀\r\nb😀😀\r\n" * 50
    path = written(tmp_path, "a.txt", text)
    whole = documents(path)
    for chunk_bytes in (1, 2, 3, 7):
        monkeypatch.setattr(textfiles, "_CHUNK_BYTES", chunk_bytes)
        assert documents(path) == whole == ["aé漢😀", "b😀😀"] * 50


def test_long_line_is_cut_at_whitespace_and_loses_nothing(tmp_path: Path) -> None:
    line = " ".join(f"word{i}" for i in range(200_000))
    path = written(tmp_path, "a.txt", f"short\n{line}\nend\n")
    first, *pieces, last = documents(path)
    assert (first, last) == ("short", "end")
    assert "".join(pieces) == line
    assert len(pieces) > 10
    assert max(map(len, pieces)) <= MAX_DOCUMENT_CHARS
    assert all(piece.startswith(" ") for piece in pieces[1:])


@pytest.mark.parametrize("content", [b"x" * 40 * MIB, b"word " * 8 * MIB, b" " * 40 * MIB])
def test_one_endless_line_takes_little_memory(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, "a.txt", content)
    chars = 0

    def read() -> None:
        nonlocal chars
        for pieces in read_documents(path, "txt", ""):
            chars += sum(map(len, pieces))

    assert peak_mib(read) < 6
    assert chars == 0 if content.isspace() else chars >= 40 * MIB - 1


@pytest.mark.parametrize(
    ("name", "start"), [("a.jsonl", b'{"text": "'), ("a.csv", b'text\n"'), ("b.csv", b"text\n")]
)
def test_endless_row_is_refused_before_it_fills_memory(
    tmp_path: Path, name: str, start: bytes
) -> None:
    path = written(tmp_path, name, start + b"word " * 8 * MIB)

    def read() -> None:
        with pytest.raises(DataError, match=r"line \d: this row is longer than 8 Mi"):
            documents(path)

    assert peak_mib(read) < 60


def test_row_of_endlessly_many_quoted_line_breaks_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", b"text\n" + b'"a\n",' * 2 * MIB)
    with pytest.raises(DataError, match="line 2: this row is longer"):
        documents(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_wrong_byte_is_named_by_its_offset(tmp_path: Path, name: str) -> None:
    start = 'text\n"é"\n'.encode() if name == "a.csv" else '{"text": "é"}\n'.encode()
    path = written(tmp_path, name, start * 3 + b'"\xff"')
    line = start.count(b"\n") * 3 + 1
    where = f"at byte {len(start) * 3 + 1}, line {line}"
    with pytest.raises(DataError, match=f"not UTF-8: an invalid byte {where}"):
        documents(path)


def test_a_byte_order_mark_counts_where_a_wrong_byte_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not UTF-8: an invalid byte at byte 5"):
        documents(written(tmp_path, "a.txt", b"\xef\xbb\xbfab\xffc"))


def test_wrong_byte_far_into_the_file_is_named_by_its_offset(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "é\n".encode() * MIB + b"abc\xc3")
    with pytest.raises(DataError, match=f"at byte {3 * MIB + 3}, line {MIB + 1}"):
        documents(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_binary_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    with zipfile.ZipFile(archive, "w"):
        pass
    with pytest.raises(DataError, match="binary, not text: a NUL byte at byte 4"):
        documents(archive)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("chunk_bytes", [7, 2**18])
def test_text_with_a_byte_order_mark_is_read(
    tmp_path: Path, monkeypatch, encoding: str, chunk_bytes: int
) -> None:
    monkeypatch.setattr(textfiles, "_CHUNK_BYTES", chunk_bytes)
    text = "zwölf 漢 😀\r\nend\n" * 9
    expected = ["zwölf 漢 😀", "end"] * 9
    assert documents(written(tmp_path, "a.txt", text.encode(encoding))) == expected
    table = "id\ttext\r\n" + "".join(f"1\t{line}\r\n" for line in expected)
    assert documents(written(tmp_path, "a.csv", table.encode(encoding))) == expected
    rows = "".join(json.dumps({"text": line}) + "\n" for line in expected)
    assert documents(written(tmp_path, "a.jsonl", rows.encode(encoding))) == expected


def test_big_endian_utf_16_is_read_and_its_faults_are_named(tmp_path: Path) -> None:
    mark = b"\xfe\xff"
    assert documents(written(tmp_path, "a.txt", mark + "twölf".encode("utf-16-be"))) == ["twölf"]
    with pytest.raises(DataError, match=r"a\.txt is not UTF-16: an invalid byte at byte 6, line 2"):
        documents(written(tmp_path, "a.txt", mark + b"\0a\0\n\xdc\0\0b"))
    with pytest.raises(DataError, match="binary"):
        documents(written(tmp_path, "a.txt", mark + "a\0b".encode("utf-16-be")))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_called_so(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, "a.txt", "a line of text\n".encode(encoding))
    with pytest.raises(DataError, match=r"a\.txt is UTF-16 .*: save it as UTF-8"):
        documents(path)
    assert not textfiles.is_binary(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_the_delimiter_of_a_table_is_found(tmp_path: Path, delimiter: str, start: str) -> None:
    rows = [["id", " text "], ["1", "one, and; so | on"], ["2", 'says "two"\nand more'], ["3", ""]]
    with open(tmp_path / "a.csv", "w", encoding="utf-8", newline="") as file:
        file.write(start)
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert documents(tmp_path / "a.csv") == [rows[1][1], rows[2][1]]
    assert textfiles.text_columns(tmp_path / "a.csv", "csv") == (3, ["id", "text"])


def test_excels_line_that_names_the_delimiter_is_no_header(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "sep=;\r\nid;text;\r\n1;one;\r\n2;two;;\r\n")
    with pytest.raises(DataError, match="line 4: 4 fields, but the header has 3"):
        documents(path)
    assert documents(written(tmp_path, "a.csv", "sep=;\nid;text;\n1;one;\n")) == ["one"]
    assert textfiles.text_columns(path.with_name("a.csv"), "csv") == (1, ["id", "text"])


def test_prose_with_semicolons_stays_one_column(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text\none; two\nthree; four; five\nsix\n")
    assert documents(path) == ["one; two", "three; four; five", "six"]


def test_a_row_without_the_key_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "a"}\n\n{"text": null}\n{"body": "c"}\n')
    message = r"a\.jsonl, line 4: no text under 'text'.*there are: 'body'"
    with pytest.raises(DataError, match=message):
        textfiles.text_columns(path, "jsonl")
    with pytest.raises(DataError, match=r"line 4: no column 'text' of text; there are: 'body'"):
        documents(path)


def test_text_in_nested_objects_has_a_dotted_name(tmp_path: Path) -> None:
    rows = [{"id": i, "data": {"text": f"text {i}", "more": {"note": "n"}}} for i in range(3)]
    path = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert textfiles.text_columns(path, "jsonl") == (3, ["data.text", "data.more.note"])
    assert documents(path, "data.text") == ["text 0", "text 1", "text 2"]
    with pytest.raises(
        DataError, match=r"line 1: no column 'text'.*: 'data\.text', 'data\.more\.note'"
    ):
        documents(path)
    dotted = written(tmp_path, "b.jsonl", '{"a.b": {"c": "one"}}\n{"a": {"b": {"c": "two"}}}')
    assert documents(dotted, "a.b.c") == ["one", "two"]


def test_columns_without_any_text_are_no_choice(tmp_path: Path) -> None:
    rows = [{"text": "a", "note": None}, {"text": " ", "note": None}, {"text": "b", "note": ""}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    written(tmp_path, "a.csv", 'text,note,\na,"",\n" ",,\nb,,\n')
    for format in ("parquet", "jsonl", "csv"):
        assert textfiles.text_columns(tmp_path / f"a.{format}", format) == (2, ["text"])
    with pytest.raises(DataError, match="the header names no column"):
        textfiles.text_columns(written(tmp_path, "b.csv", " ,\na,b\n"), "csv")


def test_rows_without_text_are_counted_as_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": null}\n{"text": " "}\n')
    assert list(textfiles.read_rows(path, "jsonl", "text")) == [["a"], [], []]


@pytest.mark.parametrize(
    "kind",
    [pa.string_view(), pa.large_string(), pa.dictionary(pa.int8(), pa.large_string())],
    ids=str,
)
def test_every_string_type_of_parquet_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["a", "b", None, "a"])
    column = texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts
    pq.write_table(pa.table({"n": [1, 2, 3, 4], "text": column.cast(kind)}), tmp_path / "a.parquet")
    assert textfiles.text_columns(tmp_path / "a.parquet", "parquet") == (3, ["text"])
    assert documents(tmp_path / "a.parquet") == ["a", "b", "a"]


def test_a_parquet_column_may_have_dots_in_its_name(tmp_path: Path) -> None:
    table = pa.table({"data": [{"text": "x"}], "data.text": ["a"], "t": ["b"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert textfiles.text_columns(tmp_path / "a.parquet", "parquet") == (1, ["data.text", "t"])
    assert documents(tmp_path / "a.parquet", "data.text") == ["a"]


def test_parquet_without_text_says_what_it_holds(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1], "data": [{"text": "a"}]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"'n \(int64\)', 'data \(struct<text: string>\)'"):
        textfiles.text_columns(tmp_path / "a.parquet", "parquet")
    with pytest.raises(DataError, match=r"n \(int64\)"):
        documents(tmp_path / "a.parquet", "n")


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns have the same name 'text'"):
        documents(tmp_path / "a.parquet")


def test_rows_of_every_format_give_the_same_documents(tmp_path: Path) -> None:
    texts = ["one, two", 'a "quoted"\nsecond line', "", None, "é 漢"]
    rows = [{"id": i, "text": text} for i, text in enumerate(texts)]
    jsonl = "".join(json.dumps(row) + "\n\n" for row in rows)
    quoted = "".join(
        '{id},"{0}"\n'.format((row["text"] or "").replace('"', '""'), **row) for row in rows
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    expected = ["one, two", 'a "quoted"\nsecond line', "é 漢"]
    assert documents(written(tmp_path, "a.jsonl", jsonl)) == expected
    assert documents(written(tmp_path, "a.csv", f"id,text\n{quoted}")) == expected
    assert documents(tmp_path / "a.parquet") == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not a JSON object"),
        ("[1]", "line 2: a JSON list"),
        ("[" * 100_000, "line 2: not a JSON object"),
        ('{"text": ' + "9" * 10_000 + "}", "line 2: not a JSON object"),
        ('{"text": 3, "body": "x"}', "line 2: 'text' contains a JSON int, not text; .*: 'body'"),
        ('{"body": "x"}', "line 2: no column 'text'"),
    ],
)
def test_malformed_json_is_refused_by_line(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "fine"}\n' + line)
    with pytest.raises(DataError, match=message):
        documents(path)


def test_half_a_surrogate_pair_is_no_character(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "one"}\n' + r'{"text": "a\ud800b"}')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: 'text' contains half of a character"):
        documents(path)
    whole = written(tmp_path, "b.jsonl", r'{"text": "a\ud83d\ude00b"}')
    assert documents(whole) == ["a\U0001f600b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,a\n2,b,c\n", "line 3: 3 fields, but the header has 2"),
        ('id,text\n1,"a\n', "line 2: not valid CSV"),
        ("id,body\n1,a\n", "no column 'text' of text; there are: 'id', 'body'"),
        ("text,text\na,b\n", "two columns have the same name"),
        (",".join(map(str, range(2000))), "2000 columns; at most 1000"),
    ],
)
def test_malformed_csv_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        documents(written(tmp_path, "a.csv", content))


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable Parquet file"):
        documents(written(tmp_path, "a.parquet", b"PAR1 not really PAR1"))
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"text": ["some text " * 50] * 100}), path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[8:200] = b"\xff" * 192
    with pytest.raises(DataError, match="damaged Parquet file"):
        documents(written(tmp_path, "b.parquet", bytes(content)))


def test_parquet_without_that_text_column_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2], "body": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'text' of text; there are: 'body'"):
        documents(tmp_path / "a.parquet")


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be a \.txt, \.jsonl, \.csv or \.parquet file"):
        textfiles.format_of(Path("a.docx"))


def test_parquet_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x" * 2**20] * 200}), path, compression="zstd")
    with pytest.raises(DataError, match="unpacks to more than 64 MiB of text"):
        documents(path)
    pq.write_table(pa.table({"text": ["x" * 70 * 2**20]}), path, compression="zstd")
    with pytest.raises(DataError, match="unpacks to more than 64 MiB of text"):
        documents(path)


def test_long_repeated_values_are_read_one_by_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x" * MIB] * 20}), tmp_path / "a.parquet")
    assert sum(map(len, documents(tmp_path / "a.parquet"))) == 20 * MIB


def test_parquet_dictionary_column_is_text(tmp_path: Path) -> None:
    column = pa.array(["a", "b", None, "a"]).dictionary_encode()
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet") == ["a", "b", "a"]
