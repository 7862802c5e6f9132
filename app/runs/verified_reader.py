"""Reads published files and verifies every byte; keeps digests in memory, writes nothing.

The first read of a file verifies its published SHA-256 and records a digest of each block; later
reads verify their blocks only. A browser does not check an ETag, so that without this a download
of a damaged file would look complete.
"""

import hashlib
from collections.abc import Iterator

from app.errors import AppError
from app.runs.models import Artifact
from app.storage import Store

BLOCK_BYTES = 1 << 20
DIGEST_BYTES = 16
MAX_FILES = 10_000


class DamagedFile(AppError):
    """The stored file differs from the published one."""

    slug = "damaged-file"
    title = "The stored file is damaged"


class VerifiedReader:
    """Verified reads of the published files in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._blocks: dict[str, bytes] = {}
        """By storage key, the concatenated digests of all blocks."""

    def check(self, row: Artifact) -> None:
        """Raise DamagedFile unless the stored file is the published one."""
        try:
            size_bytes = self._store.size(row.storage_key)
            if size_bytes != row.size_bytes:
                self._blocks.pop(row.storage_key, None)
                raise DamagedFile(
                    f"'{row.path}' has {size_bytes} bytes in the store instead of {row.size_bytes}."
                )
            if row.storage_key not in self._blocks:
                self._verify(row)
        except FileNotFoundError:
            raise DamagedFile(f"'{row.path}' is missing from the store.") from None

    def read(self, row: Artifact, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to `end` of a file that `check` has seen, in pieces.

        A damaged block raises, which breaks the connection; the next request gets an error.
        """
        if start >= end:
            return
        digests = self._blocks.get(row.storage_key) or self._verify(row)
        first, last = start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        with self._store.open(row.storage_key) as file:
            file.seek(first * BLOCK_BYTES)
            for number in range(first, last + 1):
                block = file.read(BLOCK_BYTES)
                if _digest(block) != digests[number * DIGEST_BYTES :][:DIGEST_BYTES]:
                    self._blocks.pop(row.storage_key, None)
                    raise DamagedFile(f"'{row.path}' has changed since it was published.")
                offset = number * BLOCK_BYTES
                yield block[max(0, start - offset) : end - offset]

    def _verify(self, row: Artifact) -> bytes:
        """Verify the whole file; returns the digests of its blocks."""
        whole, digests = hashlib.sha256(), bytearray()
        with self._store.open(row.storage_key) as file:
            while block := file.read(BLOCK_BYTES):
                whole.update(block)
                digests += _digest(block)
        if whole.hexdigest() != row.sha256:
            raise DamagedFile(
                f"'{row.path}' in the store is damaged: its SHA-256 is {whole.hexdigest()} "
                f"instead of {row.sha256}."
            )
        if len(self._blocks) >= MAX_FILES:
            self._blocks.clear()
        self._blocks[row.storage_key] = bytes(digests)
        return self._blocks[row.storage_key]


def _digest(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=DIGEST_BYTES).digest()
