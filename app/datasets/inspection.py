"""Checks an uploaded file before it is kept; knows no table.

Whatever a hostile file does to its reader (memory without end, time without end, a crash of native
code), it does to a process of its own, which has limits. Only small plain text is read right here.
"""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.datasets.schemas import DatasetFormat
from app.datasets.tokenizer_files import check_tokenizer_json, check_vocab_txt
from app.errors import AppError, FieldProblem, Invalid, TooLarge, Unsupported
from kdcore.data.corpora import inspect_file
from kdcore.data.text_files import is_binary
from kdcore.errors import DataError

logger = logging.getLogger(__name__)

PLAIN: tuple[DatasetFormat, ...] = ("txt", "jsonl", "csv")
READ_HERE_BYTES = 2 * 1024**2
"""Plain text up to this size is read sooner than a process starts."""
MEMORY_BYTES = 768 * 1024**2
BASE_CPU_S = 60
BYTES_PER_CPU_S = 1_000_000
"""The slowest that a machine may be before an honest file takes too long."""
CHECKS_AT_ONCE = 2

Facts = tuple[int | None, list[str]]
"""Documents (None for tokenizers) and columns that hold text."""


def check_file(path: Path, format: DatasetFormat) -> Facts:
    """Documents and text columns of a file; raises Invalid, TooLarge or Unsupported, in words."""
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise Invalid("The file is empty.", [FieldProblem("/file", "the file is empty")])
    if reads_here(path, format):
        return _read(path, format)
    return _read_apart(path, format, size_bytes)


def reads_here(path: Path, format: DatasetFormat) -> bool:
    """Whether the check takes milliseconds, since it needs no process of its own."""
    return format in PLAIN and path.stat().st_size <= READ_HERE_BYTES


def _read(path: Path, format: DatasetFormat) -> Facts:
    if format == "tokenizer_json":
        check_tokenizer_json(path)
        return None, []
    if format == "vocab_txt":
        check_vocab_txt(path)
        return None, []
    if format != "parquet" and is_binary(path):
        raise Unsupported("This file is binary, not text. If it is UTF-16 text, save it as UTF-8.")
    try:
        facts = inspect_file(path, format)
    except DataError as error:
        # The file has our own name on disk; people know it by theirs.
        raise _invalid(str(error).replace(path.name, "the file")) from error
    return facts.documents, facts.columns


def _invalid(words: str) -> Invalid:
    return Invalid(words, [FieldProblem("/file", words)])


# ------------------------------------------------------------------------ in a process of its own


def _read_apart(path: Path, format: DatasetFormat, size_bytes: int) -> Facts:
    cpu_s = BASE_CPU_S + size_bytes // BYTES_PER_CPU_S
    done = subprocess.run(
        [sys.executable, "-P", "-m", "app.datasets.inspection", str(path), format, str(cpu_s)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode == -signal.SIGXCPU:
        raise _invalid("the file takes too long to read for its size")
    if done.returncode != 0:
        # Rust and C++ end the process where there is no memory left.
        logger.warning(
            "a file could not be checked: %s", done.stderr[-2000:].decode("utf-8", "replace")
        )
        raise _invalid("the file cannot be read within this server's limits of memory")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise _error(answer)
    return answer["documents"], answer["columns"]


def _error(answer: dict[str, Any]) -> AppError:
    if answer["error"] == Unsupported.slug:
        return Unsupported(answer["detail"])
    if answer["error"] == TooLarge.slug:
        return TooLarge(answer["detail"])
    return _invalid(answer["detail"])


def main() -> None:
    """Print what the file named on the command line holds, or why it is refused, as JSON."""
    path, format, cpu_s = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)  # requests come first
    try:
        documents, columns = _read(path, format)  # type: ignore[arg-type]
        answer: dict[str, Any] = {"documents": documents, "columns": columns}
    except AppError as error:
        answer = {"error": error.slug, "detail": error.detail}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
