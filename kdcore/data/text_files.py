"""Reads documents out of txt, jsonl, csv and parquet files in bounded memory; imports no torch.

No file, however hostile, may exhaust memory: text is decoded chunk by chunk, a long line of plain
text is cut at whitespace into documents of at most `MAX_DOCUMENT_CHARS`, and a row of jsonl or csv
larger than `MAX_ROW_CHARS` is refused. Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark.
Every complaint is a DataError that names the file and, where there is one, the line.
"""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
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
"""Largest ratio of text to file size of a Parquet file; above it (unless small) it is refused."""
_FREE_EXPANSION = 64 * 2**20
_FREE_ROWS = 2**20
"""A file with more rows than this, and than it has bytes, is refused: empty rows take one bit."""
_CHUNK_BYTES = 2**18
_DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_LINES = 20
_JSON_DEPTH = 4
_HALF_A_PAIR = re.compile(r"[\ud800-\udfff]")
"""A JSON escape can be half of a surrogate pair, which no tokenizer accepts."""
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


def encoding_of(start: bytes) -> str | None:
    """The encoding that a file's first bytes announce; None if they are binary.

    Without a byte order mark text is UTF-8. UTF-16 without one is named "utf-16?": most of its
    odd or its even bytes are 0.
    """
    # UTF-32's little-endian mark begins with UTF-16's.
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if start.startswith(mark):
            return encoding
    if b"\0" not in start:
        return "utf-8"
    halves = start[0::2], start[1::2]
    shares = sorted(half.count(0) / max(1, len(half)) for half in halves)
    return "utf-16?" if shares[0] < 0.1 and shares[1] > 0.4 and len(start) >= 8 else None


def is_binary(path: Path) -> bool:
    """Whether the start of the file is not text in any encoding that is read here."""
    with open(path, "rb") as file:
        return encoding_of(file.read(_CHUNK_BYTES)) is None


def decoded_chunks(path: Path) -> Iterator[str]:
    """The file's text, chunk by chunk, with every line ending as \\n and without a BOM."""
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    with open(path, "rb") as file:
        encoding = encoding_of(file.read(4096))
        base = len(codecs.BOM_UTF8) if encoding == "utf-8-sig" else 0
        file.seek(base)
        if encoding == "utf-16?":
            raise DataError(f"{path.name} is UTF-16 without a byte order mark: save it as UTF-8")
        wide = encoding in ("utf-16", "utf-32")
        decoder = codecs.getincrementaldecoder(encoding if encoding and wide else "utf-8")()
        line = 1
        while True:
            chunk = file.read(_CHUNK_BYTES)
            pending = len(decoder.getstate()[0])
            nul = -1 if wide else chunk.find(b"\0")
            if nul >= 0:
                raise _binary(path, base + nul)
            try:
                text = decoder.decode(chunk, not chunk)
            except UnicodeDecodeError as error:
                name = encoding.upper() if encoding and wide else "UTF-8"
                good = error.object[: error.start].decode(error.encoding, "ignore")
                line += newlines.decode(good).count("\n")
                raise DataError(
                    f"{path.name} is not {name}: an invalid byte at byte "
                    f"{base - pending + error.start}, line {line}. "
                    "Save the file as UTF-8 and try again"
                ) from None
            if wide and "\0" in text:
                raise _binary(path, base)
            base += len(chunk)
            text = newlines.decode(text, final=not chunk)
            line += text.count("\n")
            yield text
            if not chunk:
                return


def _binary(path: Path, byte: int) -> DataError:
    return DataError(
        f"{path.name} is binary, not text: a NUL byte at byte {byte}. "
        "Text must be UTF-8 without NULs; if this is UTF-16, save it as UTF-8"
    )


def _lines(path: Path) -> Iterator[str]:
    """Non-blank lines of plain text; a long one arrives as several pieces."""
    buffer = ""
    for text in decoded_chunks(path):
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
    for text in decoded_chunks(path):
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
                "A .jsonl file contains one JSON object per line"
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path.name}, line {number}: a JSON {type(row).__name__}, but every line of a "
                '.jsonl file must be an object such as {"text": "..."}'
            )
        yield number, row


def _csv_dialect(path: Path) -> tuple[str, int]:
    """(delimiter, number of the header's line): of the delimiters that spreadsheets write, the one
    that cuts the first rows into the most fields, equally many each; a comma if none does.
    """
    lines = ((number, line) for number, line in _physical_lines(path) if line.strip())
    sample = list(islice(lines, _SAMPLE_LINES))
    if not sample:
        return ",", 1
    number, line = sample[0]
    if line.lower().startswith("sep=") and len(line.strip()) == 5:
        # Excel's own way to name it, on a line before the header.
        return line.strip()[4], number + 1
    text = [line for _, line in sample]

    def fields(delimiter: str) -> int:
        try:
            widths = [len(row) for row in csv.reader(text, delimiter=delimiter) if row]
        except csv.Error:
            return 1
        # The sample may end within a quoted field.
        return widths[0] if len(set(widths[: max(1, len(widths) - 1)])) == 1 else 1

    csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_ROW_CHARS))
    return max(_DELIMITERS, key=fields), number


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every row, the header first; all rows are as long as it."""
    delimiter, first = _csv_dialect(path)
    # The limit is global to the process; this one is above every row that `fed` lets through.
    csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_ROW_CHARS))
    row_start, row_chars = first, 0

    def fed() -> Iterator[str]:
        nonlocal row_chars
        for number, line in _physical_lines(path):
            if number < first:
                continue
            row_chars += len(line)
            if row_chars > MAX_ROW_CHARS:
                raise _row_too_long(path, row_start)
            yield line

    reader = csv.reader(fed(), strict=True, delimiter=delimiter)
    width: int | None = None
    try:
        for row in reader:
            if row:
                width = width or len(row)
                if len(row) != width:
                    raise DataError(
                        f"{path.name}, line {row_start}: {len(row)} fields, but the header has "
                        f"{width}. Quote fields that contain line breaks or the delimiter "
                        f"{delimiter!r}"
                    )
                yield row_start, row
            row_start, row_chars = first + reader.line_num, 0
    except csv.Error as error:
        raise DataError(f"{path.name}, line {row_start}: not valid CSV: {error}") from None


def _csv_header(path: Path, header: list[str]) -> list[str]:
    """The columns' names; a column without one cannot be chosen."""
    if len(header) > MAX_COLUMNS:
        raise DataError(f"{path.name}: {len(header)} columns; at most {MAX_COLUMNS} are read")
    header = [name.strip() for name in header]
    named = [name for name in header if name]
    if len(set(named)) != len(named):
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
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _parquet_columns(path: Path) -> list[str]:
    """The columns that hold text; DataError if none does."""
    schema = _parquet_file(path).schema_arrow
    if len(schema) > MAX_COLUMNS:
        raise DataError(f"{path.name}: {len(schema)} columns; at most {MAX_COLUMNS} are read")
    columns = [field.name for field in schema if _holds_text(field.type)]
    if not columns:
        there = [f"{field.name} ({field.type})" for field in schema]
        raise DataError(f"{path.name}: no column contains text; there are: {_listed(there)}")
    if double := next((name for name in columns if schema.names.count(name) > 1), None):
        raise DataError(f"{path.name}: two columns have the same name '{double}'")
    return columns


def _no_column(path: Path, column: str, columns: list[str], where: str = "") -> DataError:
    return DataError(
        f"{path.name}{where}: no column '{column}' of text; there are: {_listed(columns)}"
    )


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
            values = batch.column(batch.schema.get_field_index(column))
            if not types.is_dictionary(values.type):  # a name with dots is not found above
                values = values.dictionary_encode()
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
            f"{MAX_EXPANSION} times its own size: refusing what looks like a decompression bomb"
        )


def _refuse_rows(path: Path, rows: int) -> None:
    if rows > max(_FREE_ROWS, path.stat().st_size):
        raise DataError(
            f"{path.name} claims more rows than it has bytes: refusing what looks like a "
            "decompression bomb"
        )


def _json_texts(row: dict[str, Any], prefix: str = "", depth: int = 0) -> dict[str, str | None]:
    """Texts (and nulls) of a JSON object; those of objects inside it as `outer.inner`."""
    found: dict[str, str | None] = {}
    for key, value in row.items():
        if not prefix + key:
            continue  # no column can be chosen by an empty name
        if isinstance(value, str | None):
            found[prefix + key] = value
        elif isinstance(value, dict) and depth < _JSON_DEPTH:
            found |= _json_texts(value, f"{prefix}{key}.", depth + 1)
    return found


def _json_value(row: dict[str, Any], column: str) -> Any:
    """The value of `column`, a key or `outer.inner`; KeyError if there is none."""
    if column in row:
        return row[column]
    outer, dot, inner = column.partition(".")
    while dot:
        if isinstance(row.get(outer), dict):
            with suppress(KeyError):
                return _json_value(row[outer], inner)
        more, dot, inner = inner.partition(".")
        outer = f"{outer}.{more}"
    raise KeyError(column)


def _json_values(path: Path, column: str) -> Iterator[str | None]:
    for number, row in _json_rows(path):
        try:
            value = _json_value(row, column)
        except KeyError:
            raise _no_column(path, column, [*_json_texts(row)], f", line {number}") from None
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"{path.name}, line {number}: '{column}' contains a JSON {type(value).__name__}, "
                f"not text; there are: {_listed([*_json_texts(row)])}"
            )
        if value is not None and _HALF_A_PAIR.search(value):
            raise DataError(
                f"{path.name}, line {number}: '{column}' contains half of a character that takes "
                "two \\u escapes, such as \\ud83d without its second half"
            )
        yield value


def _json_columns(path: Path) -> tuple[int, list[str]]:
    """As `text_columns`; DataError that names line and key if no key holds text in every row."""
    counts: dict[str, int] | None = None
    for number, row in _json_rows(path):
        texts = _json_texts(row)
        before = counts
        if counts is None:
            counts = dict.fromkeys(islice(texts, MAX_COLUMNS), 0)
        counts = {key: n + _holds(texts[key]) for key, n in counts.items() if key in texts}
        if counts:
            continue
        if before:
            raise DataError(
                f"{path.name}, line {number}: no text under '{next(iter(before))}', where the "
                f"lines before have it; there are: {_listed([*texts])}. Every line needs its text "
                "under the same key"
            )
        keys = [f"{key} ({type(value).__name__})" for key, value in row.items()]
        raise DataError(
            f"{path.name}, line {number}: no text; its keys are {_listed(keys)}. Put the text "
            'under a key of its own, such as {"text": "..."}'
        )
    return _filled(counts or {})


def _holds(text: str | None) -> bool:
    return bool(text) and not text.isspace()  # type: ignore[union-attr]


def _filled(counts: dict[str, int]) -> tuple[int, list[str]]:
    return max(counts.values(), default=0), [name for name, count in counts.items() if count]


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:20]) or "none"


def _csv_values(path: Path, column: str) -> Iterator[str]:
    rows = _csv_rows(path)
    _, header = next(rows, (0, list[str]()))
    header = _csv_header(path, header)
    if column.strip() not in header or not column.strip():
        raise _no_column(path, column, [name for name in header if name])
    index = header.index(column.strip())
    for _, row in rows:
        yield row[index]


def text_columns(path: Path, format: FileFormat) -> tuple[int, list[str]]:
    """(documents, columns that hold text in every row that is not blank); reads the whole file.

    Where columns hold text in a different number of rows, it is the largest.
    """
    if format == "parquet":
        return _filled(
            {name: sum(map(_holds, _parquet_values(path, name))) for name in _parquet_columns(path)}
        )
    if format == "csv":
        table = _csv_rows(path)
        _, header = next(table, (0, list[str]()))
        names = _csv_header(path, header)
        if header and not any(names):
            raise DataError(f"{path.name}: the header names no column")
        found = Counter(
            name for _, row in table for name, text in zip(names, row, strict=True) if _holds(text)
        )
        return _filled({name: found[name] for name in names if name})
    return _json_columns(path)


def read_rows(path: Path, format: FileFormat, column: str) -> Iterator[list[str]]:
    """Every row of the file as the pieces of its text, none for a row without text.

    Blank lines of plain text separate; they are not rows.
    """
    try:
        if format == "txt":
            for line in _lines(path):
                yield [line]
            return
        readers = {"jsonl": _json_values, "csv": _csv_values, "parquet": _parquet_values}
        for value in readers[format](path, column):
            yield [piece for piece in split_document(value or "") if piece.strip()]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def read_documents(path: Path, format: FileFormat, column: str) -> Iterator[list[str]]:
    """Every non-blank document of the file, as its pieces; a line of plain text has one piece."""
    return filter(None, read_rows(path, format, column))
