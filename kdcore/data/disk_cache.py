"""Cache entries that several runs may need at the same time; imports no torch.

An entry is a folder. The process that holds its lock builds it in a temporary folder, adds
checksums, syncs and renames it, so that it is complete or absent. A damaged one is rebuilt. The
checksums are CRC32: they are read at the start of every run, and guard against damage only.
"""

import json
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from kdcore.errors import disk_full, is_disk_full
from kdcore.events import Log, Progress, Sink
from kdcore.files import MANIFEST, sync_folder, sync_tree

_REPORT_WAIT_S = 30.0


def cached_folder(place: Path, build: Callable[[Path], None], sink: Sink) -> Path:
    """`place`, after `build(folder)` has filled it; an intact one is returned as it is."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place, sink), _disk_full_typed(place):
        if place.exists():
            if _is_intact(place):
                return place
            sink.emit(Log(level="warning", message=f"{place.name} is damaged: rebuilding it"))
            shutil.rmtree(place)
        _clear_leftovers(place)
        folder = Path(tempfile.mkdtemp(prefix=f"{place.name}.tmp-", dir=place.parent))
        try:
            build(folder)
            _write_checksums(folder)
            sync_tree(folder)
            folder.rename(place)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        sync_folder(place.parent)
    return place


@contextmanager
def _locked(place: Path, sink: Sink) -> Iterator[None]:
    # A lock of the operating system: it is released when its holder dies.
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
    """Take the lock; reports now and then that it waits, so that it does not look like a hang."""
    start_s = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=_REPORT_WAIT_S)
        except Timeout:
            waited_s = round(time.monotonic() - start_s)
            sink.emit(Progress(phase="waiting for another run", done=waited_s, unit="seconds"))
        else:
            return


@contextmanager
def _disk_full_typed(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise disk_full(place.parent) from error


def _clear_leftovers(place: Path) -> None:
    """Removes what a killed builder left; the holder of the lock is the only builder."""
    for leftover in place.parent.glob(f"{place.name}.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _crc32(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _write_checksums(folder: Path) -> None:
    files = {path.name: [path.stat().st_size, _crc32(path)] for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(files))


def _is_intact(place: Path) -> bool:
    try:
        files = json.loads((place / MANIFEST).read_text())
        return all(
            (place / name).stat().st_size == size and _crc32(place / name) == checksum
            for name, (size, checksum) in files.items()
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return False
