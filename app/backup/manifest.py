"""What a backup holds, and the proof of it: every file with its size and SHA-256; moves no file.

<backup>/
    manifest.json  manifest.json.sha256
    database/<table>.jsonl
    uploads/<dataset id>/...  artifacts/<key in the store>
    work/<run id>/attempt-<n>/...  copies/<run id>/<n>/<checkpoint>/...  (where hosts share a store)

A folder without `manifest.json` is no backup: it is written last, in a folder that gets its name
only then.
"""

import hashlib
import os
from datetime import datetime
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from app.backup.progress import Advance, noop
from app.storage import BadKey, checked_key, fsync_folder

FORMAT = 1
MANIFEST = "manifest.json"
CHECKSUM = "manifest.json.sha256"
CHUNK_BYTES = 1 << 20


class BackupError(Exception):
    """Making, checking or restoring a backup failed; the message says what to do."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SavedFile(_Model):
    """One file of the backup."""

    path: str
    size_bytes: int
    sha256: str


class SavedTable(_Model):
    """One table; its rows are lines of JSON lists, values in the order of `columns`."""

    name: str
    columns: list[str]
    rows: int
    digest: str
    """Of all rows whatever their order, so that a restored table can be compared."""


class LeftOut(_Model):
    """A file that a row names and the backup lacks."""

    path: str
    why: str


class Manifest(_Model):
    """The whole backup."""

    format: int
    id: str
    halflayer: str
    """Version that made it."""
    revision: str
    """Revision of the schema that the rows are of."""
    created_at: datetime
    tables: list[SavedTable]
    files: list[SavedFile]
    left_out: list[LeftOut]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def below(self, folder: str) -> list[SavedFile]:
        """The files of one of the backup's folders."""
        return [file for file in self.files if file.path.startswith(f"{folder}/")]


def copy_hashed(
    source: IO[bytes],
    target: Path,
    advance: Advance = noop,
    limit_bytes: int | None = None,
) -> tuple[int, str]:
    """Write `source`, or its first bytes, to `target` durably; returns size and SHA-256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size_bytes = hashlib.sha256(), 0
    with open(target, "wb") as copy:
        while limit_bytes is None or size_bytes < limit_bytes:
            wanted = CHUNK_BYTES if limit_bytes is None else limit_bytes - size_bytes
            if not (piece := source.read(min(CHUNK_BYTES, wanted))):
                break
            copy.write(piece)
            digest.update(piece)
            size_bytes += len(piece)
            advance(len(piece))
        copy.flush()
        sync_file(copy)
    return size_bytes, digest.hexdigest()


def sync_file(file: IO[bytes]) -> None:
    """Make a file's bytes durable."""
    os.fsync(file.fileno())


def hash_of(source: IO[bytes], advance: Advance) -> tuple[int, str]:
    """Size and SHA-256 of what is left to read, in bounded memory."""
    digest, size_bytes = hashlib.sha256(), 0
    while piece := source.read(CHUNK_BYTES):
        digest.update(piece)
        size_bytes += len(piece)
        advance(len(piece))
    return size_bytes, digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest and its own checksum, durably; with this the backup is whole."""
    data = (manifest.model_dump_json(indent=1) + "\n").encode()
    line = f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n"
    for name, content in ((CHECKSUM, line.encode()), (MANIFEST, data)):
        with open(folder / name, "xb") as file:
            file.write(content)
            file.flush()
            sync_file(file)
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            fsync_folder(path)
    fsync_folder(folder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished backup; raises BackupError."""
    try:
        data = (folder / MANIFEST).read_bytes()
        checksum = (folder / CHECKSUM).read_bytes().split()[0].decode("ascii")
    except (OSError, IndexError, UnicodeDecodeError):
        raise BackupError(
            f"{folder} is no finished backup: it has no {MANIFEST} with its checksum"
        ) from None
    if hashlib.sha256(data).hexdigest() != checksum:
        raise BackupError(f"{MANIFEST} of {folder} is damaged: it differs from {CHECKSUM}")
    try:
        manifest = Manifest.model_validate_json(data)
        for path in [file.path for file in manifest.files]:
            checked_key(path)
    except (ValidationError, BadKey) as error:
        raise BackupError(f"{MANIFEST} of {folder} is none of ours: {error}") from error
    if manifest.format != FORMAT:
        raise BackupError(
            f"{folder} has format {manifest.format}, this version reads {FORMAT}: "
            f"restore it with Halflayer {manifest.halflayer} or newer"
        )
    return manifest


def verify(folder: Path, manifest: Manifest, advance: Advance) -> None:
    """Read every file; raises BackupError that names each one that is not as it was written."""
    damaged = []
    for file in manifest.files:
        try:
            with open(folder / file.path, "rb") as source:
                found = hash_of(source, advance)
        except OSError as error:
            damaged.append(f"{file.path} cannot be read ({error.strerror})")
            continue
        if found[0] != file.size_bytes:
            damaged.append(f"{file.path} has {found[0]} bytes instead of {file.size_bytes}")
        elif found[1] != file.sha256:
            damaged.append(f"{file.path} fails its checksum")
    if damaged:
        raise BackupError(f"the backup {folder} is damaged: {'; '.join(damaged)}")
