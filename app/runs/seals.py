"""Lets no byte of a published file out unchecked; keeps digests in memory, changes nothing.

A file is read through once, against the SHA-256 that its run published. From then on the digests
of its blocks are known, and each block is checked when it is read: a download, or a part of one,
costs no second reading, and yet what the disk has spoilt since does not get out.
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
    """The store holds something other than what the run published."""

    slug = "damaged-file"
    title = "The stored file is damaged"


class Seals:
    """The files of one store, as far as somebody has asked for them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._blocks: dict[str, bytes] = {}
        """By storage key, the digests of all blocks, one after the other."""

    def check(self, row: Artifact) -> None:
        """Raise DamagedFile unless the store's file is the published one."""
        try:
            size_bytes = self._store.size(row.storage_key)
            if size_bytes != row.size_bytes:
                self._blocks.pop(row.storage_key, None)
                raise DamagedFile(
                    f"'{row.path}' has {size_bytes} bytes in the store; "
                    f"{row.size_bytes} were published."
                )
            if row.storage_key not in self._blocks:
                self._seal(row)
        except FileNotFoundError:
            raise DamagedFile(f"'{row.path}' is missing from the store.") from None

    def read(self, row: Artifact, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to `end` of a file that `check` has seen, in pieces.

        A block that is damaged raises instead: whoever reads gets a broken connection, and the
        next one who asks gets words.
        """
        if start >= end:
            return
        digests = self._blocks.get(row.storage_key) or self._seal(row)
        first, last = start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        with self._store.open(row.storage_key) as file:
            file.seek(first * BLOCK_BYTES)
            for number in range(first, last + 1):
                block = file.read(BLOCK_BYTES)
                if _digest(block) != digests[number * DIGEST_BYTES :][:DIGEST_BYTES]:
                    self._blocks.pop(row.storage_key, None)
                    raise DamagedFile(f"'{row.path}' is no longer what was published.")
                offset = number * BLOCK_BYTES
                yield block[max(0, start - offset) : end - offset]

    def _seal(self, row: Artifact) -> bytes:
        """Read the whole file; returns the digests of its blocks."""
        whole, digests = hashlib.sha256(), bytearray()
        with self._store.open(row.storage_key) as file:
            while block := file.read(BLOCK_BYTES):
                whole.update(block)
                digests += _digest(block)
        if whole.hexdigest() != row.sha256:
            raise DamagedFile(
                f"'{row.path}' in the store is not what the run published: its SHA-256 is "
                f"{whole.hexdigest()} instead of {row.sha256}."
            )
        if len(self._blocks) >= MAX_FILES:
            self._blocks.clear()
        self._blocks[row.storage_key] = bytes(digests)
        return self._blocks[row.storage_key]


def _digest(block: bytes) -> bytes:
    return hashlib.blake2b(block, digest_size=DIGEST_BYTES).digest()
