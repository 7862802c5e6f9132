"""The artifact store: whole files under keys, on a local disk or any fsspec file system.

A key is made by the server (`<run id>/<attempt>/<path>`), never by a client. A file appears under
its key whole or not at all.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, cast
from uuid import uuid4

import fsspec

from app.settings import Settings


class BadKey(ValueError):
    """A key that would leave the store."""


def checked_key(key: str) -> str:
    """`key` as it is; raises BadKey if it is absolute, climbs, or is empty."""
    path = PurePosixPath(key)
    if not key or "\\" in key or "\0" in key or path.is_absolute() or ".." in path.parts:
        raise BadKey(f"not a key of the store: {key!r}")
    return key


def fsync_folder(folder: Path) -> None:
    """Make the folder's entries durable, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`; a copy where hard links are impossible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if isinstance(error, FileNotFoundError | FileExistsError):
            raise
        shutil.copyfile(source, target)


class Store:
    """Files by key below the storage URL of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._fs, root = fsspec.url_to_fs(settings.resolved_storage_url)
        self._root = str(root).rstrip("/")
        protocols = self._fs.protocol
        self._local = "file" in ((protocols,) if isinstance(protocols, str) else protocols)

    def _path(self, key: str) -> str:
        return f"{self._root}/{checked_key(key)}"

    def put_file(self, local: Path, key: str) -> None:
        """Copy `local` to `key`, replacing what was there; whole or not at all."""
        target = self._path(key)
        if not self._local:
            self._fs.put_file(str(local), target)
            return
        final = Path(target)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{uuid4().hex}.partial")
        try:
            with open(local, "rb") as source, open(partial, "xb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())
            partial.replace(final)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        fsync_folder(final.parent)

    def open(self, key: str) -> IO[bytes]:
        """A binary file that can seek; raises FileNotFoundError."""
        return cast("IO[bytes]", self._fs.open(self._path(key), "rb"))

    def fetch(self, key: str, local: Path) -> None:
        """Bring the file to `local`, which must not be written to: it may be the same file."""
        if self._local:
            link_or_copy(Path(self._path(key)), local)
            return
        local.parent.mkdir(parents=True, exist_ok=True)
        self._fs.get_file(self._path(key), str(local))

    def size(self, key: str) -> int:
        """Size in bytes; raises FileNotFoundError."""
        return int(self._fs.size(self._path(key)))

    def delete_prefix(self, key: str) -> None:
        """Remove everything below `key`; nothing there is not an error."""
        with suppress(FileNotFoundError):
            self._fs.rm(self._path(key), recursive=True)

    def free_bytes(self) -> int | None:
        """Bytes that still fit; None where the store has no such limit."""
        if not self._local:
            return None
        folder = Path(self._root)
        folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(folder).free


def remove_run_files(settings: Settings, store: Store, run_id: str) -> None:
    """Remove a deleted run's published files and its work folder; call it after the commit."""
    store.delete_prefix(run_id)
    shutil.rmtree(settings.work_dir / checked_key(run_id), ignore_errors=True)
