"""What a backup contains: every file with its size and SHA-256.

<backup>/
    manifest.json  manifest.json.sha256
    database/<table>.jsonl
    uploads/<dataset id>/...  artifacts/<key in the store>
    work/<run id>/attempt-<n>/...  copies/<run id>/<n>/<checkpoint>/...  (where hosts share a store)

`manifest.json` is written last, before the folder is renamed: a folder without it is not a backup.
"""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from app.backup.progress import Advance
from kdcore.files import (
    MANIFEST,
    Manifest,
    ManifestFile,
    noop,
    size_and_sha256,
    sync_file,
    sync_tree,
)

FORMAT = 1
CHECKSUM = "manifest.json.sha256"


class BackupError(Exception):
    """Making, checking or restoring a backup failed; the message says what to do."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SavedTable(_Model):
    """One table; its rows are lines of JSON lists, values in the order of `columns`."""

    name: str
    columns: list[str]
    rows: int
    digest: str
    """Of all rows in any order, so that a restored table can be compared."""


class LeftOut(_Model):
    """A file that a row refers to and the backup does not have."""

    path: str
    why: str


class BackupManifest(Manifest):
    """The whole backup."""

    format: int
    id: str
    halflayer: str
    """Version that made it."""
    revision: str
    """Revision of the schema that the rows are of."""
    created_at: datetime
    tables: list[SavedTable]
    left_out: list[LeftOut]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def below(self, folder: str) -> list[ManifestFile]:
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
    with open(target, "wb") as copy:
        written = size_and_sha256(source, advance, copy, limit_bytes)
        sync_file(copy)
    return written


def write_manifest(folder: Path, manifest: BackupManifest) -> None:
    """Write the manifest and its checksum and sync the folder; this completes the backup."""
    data = (manifest.model_dump_json(indent=1) + "\n").encode()
    line = f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n"
    (folder / CHECKSUM).write_bytes(line.encode())
    (folder / MANIFEST).write_bytes(data)
    sync_tree(folder)


def read_manifest(folder: Path) -> BackupManifest:
    """The manifest of a finished backup; raises BackupError."""
    try:
        data = (folder / MANIFEST).read_bytes()
        checksum = (folder / CHECKSUM).read_bytes().split()[0].decode("ascii")
    except (OSError, IndexError, UnicodeDecodeError):
        raise BackupError(
            f"{folder} is not a finished backup: it has no {MANIFEST} with its checksum"
        ) from None
    if hashlib.sha256(data).hexdigest() != checksum:
        raise BackupError(f"{MANIFEST} of {folder} is damaged: it differs from {CHECKSUM}")
    try:
        manifest = BackupManifest.model_validate_json(data)
    except ValidationError as error:
        raise BackupError(f"{MANIFEST} of {folder} is not a Halflayer manifest: {error}") from error
    if manifest.format != FORMAT:
        raise BackupError(
            f"{folder} has format {manifest.format}, this version reads {FORMAT}: "
            f"restore it with Halflayer {manifest.halflayer} or newer"
        )
    return manifest


def verify(folder: Path, manifest: BackupManifest, advance: Advance) -> None:
    """Read every file; raises BackupError that names all damaged ones."""
    if damaged := list(manifest.problems(folder, advance)):
        raise BackupError(f"the backup {folder} is damaged: {'; '.join(damaged)}")
