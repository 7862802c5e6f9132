"""Reads documents out of txt, jsonl, csv and parquet files in bounded memory; imports no torch.

No file, however hostile, may exhaust memory: text is decoded chunk by chunk, a long line of plain
text is cut at whitespace into documents of at most `MAX_DOCUMENT_CHARS`, and a row of jsonl or csv
larger than `MAX_ROW_CHARS` is refused. Every complaint is a DataError in words.
"""

import codecs
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from kdcore.errors import DataError

MAX_DOCUMENT_CHARS = 100_000
MAX_ROW_CHARS = 8 * 2**20
MAX_COLUMNS = 1000
MAX_EXPANSION = 200
"""A Parquet file whose text is so many times larger than itself (and not small) is refused."""
_FREE_EXPANSION = 64 * 2**20
_FREE_ROWS = 2**20
"""More rows than this, and than the file has bytes, are refused: empty ones cost a bit each."""
_CHUNK_BYTES = 2**18
_SPACES = (" ", "\t", "\n", "\u00a0", "\u3000")

FileFormat = Literal["txt", "jsonl", "csv", "parquet"]
FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)


def format_of(path: Path) -> FileFormat:
    """The format that the file's suffix names; DataError if it is not one that we read."""
    suffix = path.suffix.lower().lstrip(".")
    for known in FORMATS:
        if suffix == known:
            return known
    raise DataError(
        f"{path.name}: a corpus must be a .txt, .jsonl, .csv or .parquet file, not '{path.suffix}'"
    )


def split_document(text: str) -> Iterator[str]:
    """`text` in pieces of at most MAX_DOCUMENT_CHARS, cut at whitespace where there is some."""
    start = 0
    while len(text) - start > MAX_DOCUMENT_CHARS:
        end = start + MAX_DOCUMENT_CHARS
        cut = max(text.rfind(space, start + 1, end) for space in _SPACES)
        cut = cut if cut > start else end
        yield text[start:cut]
        start = cut
    yield text[start:]


def _decoded(path: Path) -> Iterator[str]:
    """The file's text, chunk by chunk, with every line ending as \\n and without a BOM."""
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    pending, base, first = b"", 0, True
    with open(path, "rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            data = pending + chunk
            nul = data.find(b"\0")
            if nul >= 0:
                raise DataError(
                    f"{path.name} is binary, not text: a NUL byte at byte {base + nul}. "
                    "Text must be UTF-8 without NULs"
                )
            try:
                text, used = codecs.utf_8_decode(data, "strict", not chunk)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path.name} is not UTF-8: a wrong byte at byte {base + error.start}. "
                    "Save the file as UTF-8 and try again"
                ) from None
            pending, base = data[used:], base + used
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            yield newlines.decode(text, final=not chunk)
            if not chunk:
                return


def _lines(path: Path) -> Iterator[str]:
    """Non-blank lines of plain text; a long one arrives as several pieces."""
    buffer = ""
    for text in _decoded(path):
        *whole, buffer = (buffer + text).split("\n")
        for line in whole:
            if not line.isspace() and line:
                yield from (piece for piece in split_document(line) if piece.strip())
        if len(buffer) > MAX_DOCUMENT_CHARS:
            *pieces, buffer = split_document(buffer)
            yield from (piece for piece in pieces if piece.strip())
    if buffer.strip():
        yield buffer


def _physical_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line with its \\n), blank ones too; refuses one above MAX_ROW_CHARS."""
    number, parts, size = 1, list[str](), 0
    for text in _decoded(path):
        *whole, rest = text.split("\n")
        for line in whole:
            yield number, "".join([*parts, line, "\n"])
            number, parts, size = number + 1, [], 0
        parts.append(rest)
        size += len(rest)
        if size > MAX_ROW_CHARS:
            raise _row_too_long(path, number)
    if size:
        yield number, "".join(parts)


def _row_too_long(path: Path, number: int) -> DataError:
    return DataError(
        f"{path.name}, line {number}: this row is longer than {MAX_ROW_CHARS // 2**20} Mi "
        "characters. Put one document into each row (is a quote or a line break missing?)"
    )


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _physical_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(
                f"{path.name}, line {number}: not a JSON object: {reason}. "
                "A .jsonl file holds one JSON object a line"
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path.name}, line {number}: a JSON {type(row).__name__}, but every line of a "
                '.jsonl file must be an object such as {"text": "..."}'
            )
        yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every row, the header first; all rows are as long as it."""
    # The limit is one of the process; ours lies above every row that `fed` lets through.
    csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_ROW_CHARS))
    row_start, row_chars = 1, 0

    def fed() -> Iterator[str]:
        nonlocal row_chars
        for _, line in _physical_lines(path):
            row_chars += len(line)
            if row_chars > MAX_ROW_CHARS:
                raise _row_too_long(path, row_start)
            yield line

    reader = csv.reader(fed(), strict=True)
    width: int | None = None
    try:
        for row in reader:
            if row:
                width = width or len(row)
                if len(row) != width:
                    raise DataError(
                        f"{path.name}, line {row_start}: {len(row)} fields, but the header has "
                        f"{width}. Quote fields that contain commas or line breaks"
                    )
                yield row_start, row
            row_start, row_chars = reader.line_num + 1, 0
    except csv.Error as error:
        raise DataError(f"{path.name}, line {row_start}: not valid CSV: {error}") from None


def _csv_header(path: Path, header: list[str]) -> list[str]:
    if len(header) > MAX_COLUMNS:
        raise DataError(f"{path.name}: {len(header)} columns; at most {MAX_COLUMNS} are read")
    if len(set(header)) != len(header):
        raise DataError(f"{path.name}: two columns have the same name in the header")
    return header


def _parquet_file(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is not a readable Parquet file: {error}") from None


def _holds_text(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _parquet_columns(path: Path) -> list[str]:
    """The columns that hold text."""
    schema = _parquet_file(path).schema_arrow
    if len(schema) > MAX_COLUMNS:
        raise DataError(f"{path.name}: {len(schema)} columns; at most {MAX_COLUMNS} are read")
    return [field.name for field in schema if _holds_text(field.type)]


def _no_column(path: Path, column: str, columns: list[str], where: str = "") -> DataError:
    listed = ", ".join(f"'{name}'" for name in columns[:20]) or "none"
    return DataError(f"{path.name}{where}: no column '{column}' of text; there are: {listed}")


def _parquet_values(path: Path, column: str) -> Iterator[str | None]:
    columns = _parquet_columns(path)
    if column not in columns:
        raise _no_column(path, column, columns)
    limit = max(_FREE_EXPANSION, MAX_EXPANSION * path.stat().st_size)
    try:
        # As a dictionary, a long value that is repeated in every row is held once.
        file = pq.ParquetFile(path, memory_map=True, read_dictionary=[column])
        _refuse_bomb(path, _declared_bytes(file, column), limit)
        size, rows = 0, 0
        for batch in file.iter_batches(batch_size=1024, columns=[column]):
            values = batch.column(0)
            rows += len(values)
            _refuse_rows(path, rows)
            lengths = pc.binary_length(values.dictionary).take(values.indices)
            batch_bytes = pc.sum(lengths).as_py() or 0
            size += batch_bytes
            _refuse_bomb(path, size, limit)
            if batch_bytes > MAX_ROW_CHARS:
                yield from (value.as_py() for value in values)
            else:
                yield from values.dictionary_decode().to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} is a damaged Parquet file: {error}") from None


def _declared_bytes(file: pq.ParquetFile, column: str) -> int:
    """Uncompressed size of the largest chunk of `column`, as the file's footer has it."""
    metadata = file.metadata
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    sizes = (chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
    return max(sizes, default=0)


def _refuse_bomb(path: Path, size: int, limit: int) -> None:
    if size > limit:
        raise DataError(
            f"{path.name} unpacks to more than {limit // 2**20:,} MiB of text, over "
            f"{MAX_EXPANSION} times its own size: that is no prose"
        )


def _refuse_rows(path: Path, rows: int) -> None:
    if rows > max(_FREE_ROWS, path.stat().st_size):
        raise DataError(f"{path.name} claims more rows than it has bytes: that is no prose")


def _json_values(path: Path, column: str) -> Iterator[str | None]:
    for number, row in _json_rows(path):
        value = row.get(column, 0)
        if value is not None and not isinstance(value, str):
            texts = [key for key, item in row.items() if isinstance(item, str)]
            raise _no_column(path, column, texts, f", line {number}")
        # A JSON escape can spell half a surrogate pair, which no tokenizer takes.
        yield value and value.encode("utf-8", "replace").decode()


def _csv_values(path: Path, column: str) -> Iterator[str]:
    rows = _csv_rows(path)
    _, header = next(rows, (0, list[str]()))
    if column not in _csv_header(path, header):
        raise _no_column(path, column, header)
    index = header.index(column)
    for _, row in rows:
        yield row[index]


def text_columns(path: Path, format: FileFormat) -> tuple[int, list[str]]:
    """(rows, columns that hold text in every row); reads the whole file once."""
    if format == "parquet":
        columns = _parquet_columns(path)
        counts = [sum(1 for _ in _parquet_values(path, column)) for column in columns]
        rows = counts[0] if counts else _parquet_file(path).metadata.num_rows
    elif format == "csv":
        table = _csv_rows(path)
        _, header = next(table, (0, list[str]()))
        rows, columns = sum(1 for _ in table), _csv_header(path, header)
    else:
        rows, columns = 0, []
        for _, row in _json_rows(path):
            texts = {key: 0 for key, value in row.items() if isinstance(value, str | None)}
            columns = [key for key in columns if key in texts] if rows else [*texts][:MAX_COLUMNS]
            rows += 1
    return rows, columns


def read_documents(path: Path, format: FileFormat, column: str) -> Iterator[list[str]]:
    """Every non-blank document of the file, as its pieces; a line of plain text has one piece."""
    try:
        if format == "txt":
            for line in _lines(path):
                yield [line]
            return
        readers = {"jsonl": _json_values, "csv": _csv_values, "parquet": _parquet_values}
        for value in readers[format](path, column):
            if value and not value.isspace():
                yield [piece for piece in split_document(value) if piece.strip()]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
