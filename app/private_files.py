"""Keeps the data folder to the user that runs Halflayer, whichever command made it, and when.

Only what this user owns and what is ours by its name: a data folder may be a place that others
share, such as /tmp.
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
    """What this process and its children create from now on is for this user only."""
    os.umask(_OTHERS)


def keep_private(settings: Settings) -> None:
    """Take from other users what they may do in the data folder, if there is one."""
    for path in open_to_others(settings):
        with suppress(OSError):  # the doctor tells of it
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)


def open_to_others(settings: Settings) -> list[Path]:
    """What is ours and lets other users in; below a private folder nothing does."""
    folder = settings.data_dir.resolve()
    entries: list[Path] = []
    with suppress(OSError):  # it does not exist, or is another user's
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
