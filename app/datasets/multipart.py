"""Reads a multipart upload to disk while it arrives; knows no table.

The file is neither held in memory nor copied: its bytes go directly to a folder inside the uploads,
which is renamed to that of the dataset once it is checked.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.errors import DiskFull, FieldProblem, Invalid, TooLarge
from kdcore.errors import is_disk_full

MAX_FIELD_BYTES = 4096
MAX_PARTS = 8


@dataclass
class Received:
    """A received upload: path of the file and form fields."""

    path: Path
    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    """As sent by the client; only its suffix is used."""
    size_bytes: int = 0
    sha256: str = ""


class _Parts:
    """Callbacks of the parser; collects the parts of one chunk."""

    def __init__(self) -> None:
        self.fields: dict[str, bytearray] = {}
        self.filename: str | None = None
        self.file_bytes = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._name = ""
        self._is_file = False
        self._count = 0

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
        }

    def _begin(self) -> None:
        self._headers = {}
        self._count += 1
        if self._count > MAX_PARTS:
            raise HTTPException(400, f"The form has more than {MAX_PARTS} parts.")

    def _header_end(self) -> None:
        self._headers[bytes(self._header[0]).lower()] = bytes(self._header[1])
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = b"filename" in options
        if not self._is_file:
            self.fields[self._name] = bytearray()
        elif self._name != "file":
            raise Invalid(
                "The form has a file under an unknown name.",
                [FieldProblem(f"/{self._name}", "send the file in the field 'file'")],
            )
        elif self.filename is not None:
            raise Invalid(
                "The form has several files.", [FieldProblem("/file", "send one file at a time")]
            )
        else:
            self.filename = options[b"filename"].decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.file_bytes += data[start:end]
            return
        value = self.fields[self._name]
        value += data[start:end]
        if len(value) > MAX_FIELD_BYTES:
            raise Invalid(
                "A field of the form is too long.",
                [FieldProblem(f"/{self._name}", f"at most {MAX_FIELD_BYTES} bytes")],
            )


async def receive(request: Request, target: Path, max_bytes: int) -> Received:
    """Store the file of a multipart request at `target`; raises Invalid, TooLarge or DiskFull."""
    _, options = parse_options_header(request.headers.get("content-type"))
    if b"boundary" not in options:
        raise HTTPException(400, "The multipart body declares no boundary.")
    parts = _Parts()
    received = Received(path=target)
    digest = hashlib.sha256()
    try:
        parser = MultipartParser(options[b"boundary"], parts.callbacks())
        # Unbuffered: failed writes of a full disk must not be retried at closing.
        with open(target, "xb", buffering=0) as file:
            async for chunk in request.stream():
                parser.write(chunk)
                if parts.file_bytes:
                    received.size_bytes += len(parts.file_bytes)
                    if received.size_bytes > max_bytes:
                        # The middleware discards the rest and closes the connection.
                        raise TooLarge(f"The file is larger than {max_bytes:,} bytes.")
                    await anyio.to_thread.run_sync(_store, file, digest, bytes(parts.file_bytes))
                    parts.file_bytes.clear()
            parser.finalize()
            await anyio.to_thread.run_sync(os.fsync, file.fileno())
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(
            f"No disk space for this upload: {received.size_bytes:,} bytes have arrived, and "
            f"{shutil.disk_usage(target.parent).free:,} are free. Delete runs or datasets first."
        ) from error
    except FormParserError as error:
        raise HTTPException(400, f"The multipart body is malformed: {error}") from error
    if parts.filename is None:
        raise Invalid("The form has no file.", [FieldProblem("/file", "this field is required")])
    received.filename = parts.filename
    received.sha256 = digest.hexdigest()
    received.fields = {
        name: value.decode("utf-8", "replace") for name, value in parts.fields.items()
    }
    return received


def _store(file: IO[bytes], digest: Any, data: bytes) -> None:
    digest.update(data)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
