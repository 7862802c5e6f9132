"""A disk of a few megabytes that can be filled up: a tmpfs, so that ENOSPC is the kernel's own."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fixtures.missing import skip_or_fail

MIB = 1 << 20


class SmallDisk:
    """What is mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / ".ballast"

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all but so much of what is free now; may be repeated."""
        with open(self._ballast, "ab") as ballast:
            while (room := self.free_bytes - leave_bytes) > 0:
                try:
                    os.posix_fallocate(ballast.fileno(), ballast.tell(), room)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise  # another process wrote meanwhile; less space is left now
                ballast.seek(0, os.SEEK_END)

    def clear(self) -> None:
        """Give all that back."""
        self._ballast.unlink(missing_ok=True)

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount one at `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    # Readable for all, since Postgres runs as user nobody.
    options = f"size={size_bytes},mode=0755"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        skip_or_fail(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
