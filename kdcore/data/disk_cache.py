"""Entries of the cache that several runs may want at once; imports no torch.

An entry is a folder. It is built beside its place by whoever holds its lock, checksummed, synced
and renamed, so that it is there whole or not at all. One that fails its checksums is built anew.
"""

import errno
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from kdcore.errors import DiskFull
from kdcore.events import Log, Progress, Sink

MANIFEST = "manifest.json"
_SAY_SO_S = 30.0


def cached_folder(place: Path, build: Callable[[Path], None], sink: Sink) -> Path:
    """`place`, after `build(folder)` has filled it; builds nothing if it is there and sound."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place, sink), _disk_full_in_words(place):
        if place.exists():
            if _is_sound(place):
                return place
            message = f"{place.name} is damaged: building it again"
            sink.emit(Log(level="warning", message=message))
            shutil.rmtree(place)
        _clear_leftovers(place)
        folder = Path(tempfile.mkdtemp(prefix=f"{place.name}.tmp-", dir=place.parent))
        try:
            build(folder)
            _seal(folder)
            folder.rename(place)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        _sync(place.parent)
    return place


@contextmanager
def _locked(place: Path, sink: Sink) -> Iterator[None]:
    # The lock is the operating system's: it is free again when its holder dies.
    lock = FileLock(f"{place}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        sink.emit(Log(message=f"another run is building {place.name}: waiting"))
        _wait(lock, sink)
    try:
        yield
    finally:
        lock.release()


def _wait(lock: BaseFileLock, sink: Sink) -> None:
    """Take the lock; says now and then that it waits, lest the waiting be taken for a hang."""
    start_s = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=_SAY_SO_S)
        except Timeout:
            waited_s = round(time.monotonic() - start_s)
            sink.emit(Progress(phase="waiting for another run", done=waited_s, unit="seconds"))
        else:
            return


@contextmanager
def _disk_full_in_words(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(place.parent).free
        raise DiskFull(
            f"the disk is full: {place.name} cannot be written under {place.parent}, "
            f"where {free:,} bytes are free"
        ) from error


def _clear_leftovers(place: Path) -> None:
    """Removes what a killed builder left; whoever holds the lock is the only builder."""
    for leftover in place.parent.glob(f"{place.name}.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _crc32(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _seal(folder: Path) -> None:
    files = {path.name: [path.stat().st_size, _crc32(path)] for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(files))
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_sound(place: Path) -> bool:
    try:
        files = json.loads((place / MANIFEST).read_text())
        return all(
            (place / name).stat().st_size == size and _crc32(place / name) == checksum
            for name, (size, checksum) in files.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False
