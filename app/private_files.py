"""Restricts the data folder to the user that runs Halflayer.

Changes only files that this user owns and that have known names, since a data folder may be shared,
such as /tmp.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from sqlalchemy.engine import make_url

from app.settings import Settings

_OURS = frozenset(
    {"artifacts", "uploads", "work", "cache", "logs", "demo", "cli-token", "server.json"}
    | {"children.json", "up.lock", "backup.lock"}
    | {f"halflayer.db{suffix}" for suffix in ("", "-wal", "-shm", "-journal")}
)
_NEUTRAL = frozenset({"lost+found"})
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_files_private() -> None:
    """Create files for this user only from now on, also in child processes."""
    os.umask(_OTHERS)


def keep_private(settings: Settings) -> None:
    """Remove permissions of other users in the data folder, if it exists."""
    for path in open_to_others(settings):
        with suppress(OSError):  # reported by the doctor
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)


def open_to_others(settings: Settings) -> list[Path]:
    """Known files that other users can access; files below a private folder are safe."""
    folder = settings.data_dir.resolve()
    entries: list[Path] = []
    with suppress(OSError):  # it does not exist, or belongs to another user
        entries = sorted(folder.iterdir())
    found = [path for path in entries if path.name in _OURS]
    if all(path.name in _OURS | _NEUTRAL or path.name.startswith(".") for path in entries):
        found.insert(0, folder)
    url = make_url(settings.resolved_database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        found += [Path(url.database + suffix) for suffix in ("", "-wal", "-shm")]
    return [path for path in dict.fromkeys(found) if _is_open(path)]


def _is_open(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return (
        status.st_uid == os.geteuid()
        and not stat.S_ISLNK(status.st_mode)
        and not status.st_mode & stat.S_ISVTX  # as /tmp is, even for root
        and path != Path.home()
        and bool(status.st_mode & _OTHERS)
    )
