"""The store: files under keys, on a local disk or any fsspec file system.

Keys are made by the server, never by a client. A file appears under its key complete or not at all.

<run id>/<attempt>/<path>                     the results of runs
uploads/<dataset id>/<file>                   uploads, where hosts share no data folder
work/<run id>/<attempt>/<checkpoint>/<path>   copies of checkpoints, likewise
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, cast
from uuid import uuid4

import fsspec

from app.settings import Settings
from kdcore.errors import is_disk_full
from kdcore.files import inside, write_atomically

MIN_FREE_BYTES = 256 * 1024**2
"""With less free disk than this the server calls itself not ready."""
UPLOADS = "uploads"
"""Prefix of the uploads in a store that hosts share instead of a data folder."""
WORK = "work"
"""Prefix of the copies of checkpoints of unfinished runs."""
COPY_MANIFEST = "mirror.json"
"""Manifest of a copied checkpoint, written last: without it the copy is incomplete."""
READ_AHEAD_BYTES = 4 << 20
"""Memory that each open file of a remote store takes."""


class BadKey(ValueError):
    """A key that would leave the store."""


class StoreUnavailable(OSError):
    """The store cannot be reached or failed a request; the same may work later."""


def checked_key(key: str) -> str:
    """`key` as it is; raises BadKey if it is absolute, climbs, or is empty."""
    try:
        return inside(key)
    except ValueError:
        raise BadKey(f"not a key of the store: {key!r}") from None


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
        url = settings.resolved_storage_url
        # What other processes put there must be seen at once, so no listing is remembered.
        options = {} if url.startswith(("file:", "/")) else {"use_listings_cache": False}
        self._fs, root = fsspec.url_to_fs(url, **options)
        self._root = str(root).rstrip("/")
        protocols = self._fs.protocol
        self._local = "file" in ((protocols,) if isinstance(protocols, str) else protocols)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder; hosts that share it then share the data folder too.

        Otherwise hosts share only the store, and everything that another host needs is put there.
        """
        return self._local

    def _path(self, key: str) -> str:
        return f"{self._root}/{checked_key(key)}"

    def put_file(self, local: Path, key: str) -> None:
        """Copy `local` to `key`, replacing what was there."""
        target = self._path(key)
        if not self._local:
            with _typed_errors():
                self._fs.put_file(str(local), target)
            return
        final = Path(target)
        final.parent.mkdir(parents=True, exist_ok=True)
        with open(local, "rb") as source, write_atomically(final) as copy:
            shutil.copyfileobj(source, copy, 1 << 20)

    def open(self, key: str) -> IO[bytes]:
        """A binary file that can seek; raises FileNotFoundError."""
        path = self._path(key)
        if self._local:
            return cast("IO[bytes]", self._fs.open(path, "rb"))
        with _typed_errors():
            return cast("IO[bytes]", self._fs.open(path, "rb", block_size=READ_AHEAD_BYTES))

    def fetch(self, key: str, local: Path) -> None:
        """Bring the file to `local`, which must not be modified: it may be a hard link."""
        path = self._path(key)
        if self._local:
            link_or_copy(Path(path), local)
            return
        local.parent.mkdir(parents=True, exist_ok=True)
        partial = local.with_name(f".{uuid4().hex}.partial")
        try:
            with _typed_errors():
                self._fs.get_file(path, str(partial))
            partial.replace(local)
        finally:
            partial.unlink(missing_ok=True)

    def size(self, key: str) -> int:
        """Size in bytes; raises FileNotFoundError."""
        path = self._path(key)
        with _typed_errors():
            return int(self._fs.size(path))

    def keys(self, prefix: str) -> list[str]:
        """The keys of all files below `prefix`."""
        path = self._path(prefix)
        with _typed_errors():
            found: list[str] = self._fs.find(path)
        return sorted(each.removeprefix(f"{self._root}/") for each in found)

    def names(self, prefix: str) -> list[str]:
        """The names right below `prefix`, of files and of folders."""
        path = self._path(prefix)
        with suppress(FileNotFoundError), _typed_errors():
            found: list[str] = self._fs.ls(path, detail=False)
            return sorted(PurePosixPath(each).name for each in found)
        return []

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file in the store by its key, copies of checkpoints left out."""
        with suppress(FileNotFoundError), _typed_errors():
            found = self._fs.find(self._root, detail=True)
            sizes = {
                path.removeprefix(f"{self._root}/"): int(about["size"] or 0)
                for path, about in found.items()
            }
            return {key: size for key, size in sizes.items() if not key.startswith(f"{WORK}/")}
        return {}

    def written_s(self, key: str) -> float:
        """When the file was last written, in seconds since the epoch; now if it does not exist."""
        path = self._path(key)
        with suppress(FileNotFoundError), _typed_errors():
            return cast("float", self._fs.modified(path).timestamp())
        return time.time()

    def drop_empty_folders(self, prefix: str) -> None:
        """Remove the folder `prefix` and those above it as far as they are empty, on a disk."""
        if not self._local:
            return
        folder = Path(self._path(prefix))
        with suppress(OSError):
            for each in (*sorted(folder.rglob("*"), reverse=True), folder, folder.parent):
                each.rmdir()

    def delete_prefix(self, key: str) -> None:
        """Remove everything below `key`; nothing there is not an error."""
        path = self._path(key)
        with suppress(FileNotFoundError), _typed_errors():
            self._fs.rm(path, recursive=True)

    def free_bytes(self) -> int | None:
        """Bytes that still fit; None where the store has no such limit."""
        if not self._local:
            return None
        folder = Path(self._root)
        folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(folder).free


@contextmanager
def _typed_errors() -> Iterator[None]:
    """Raise StoreUnavailable for any error of a store's libraries, except for a missing file, a
    missing permission and a full local disk."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_disk_full(error):
            raise
        raise StoreUnavailable(
            f"the store is unavailable: {type(error).__name__}: {error}"
        ) from error


def remove_run_files(settings: Settings, store: Store, run_id: str) -> None:
    """Remove a deleted run's published files and its work folder; call it after the commit."""
    store.delete_prefix(run_id)
    if not store.is_local:
        store.delete_prefix(f"{WORK}/{run_id}")
    shutil.rmtree(settings.work_dir / checked_key(run_id), ignore_errors=True)
