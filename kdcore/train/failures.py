"""Maps errors of the machine to a typed code and advice."""

import errno
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from kdcore.device import device_error
from kdcore.errors import (
    MEMORY_ADVICE,
    HostOutOfMemory,
    KdcoreError,
    RankLost,
    disk_full,
    is_disk_full,
    says_no_memory,
)

_RESERVE_BYTES = 8 << 20


@contextmanager
def map_machine_errors(out_dir: Path) -> Iterator[None]:
    """Raise errors of the machine as a KdcoreError with a typed code and advice."""
    # Address space, never touched: a process that ran out of it needs some to report that.
    reserve = mmap.mmap(-1, _RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        yield
    except KdcoreError:
        raise
    except Exception as error:
        reserve.close()
        typed = _typed(error, out_dir)
        if typed is None:
            raise
        raise typed from error
    finally:
        reserve.close()


def _typed(error: Exception, out_dir: Path) -> KdcoreError | None:
    """The typed error for an error of the machine; None for any other error.

    Memory and the device come before the collective operation in which they may have failed.
    """
    message = str(error)
    if is_disk_full(error):
        return disk_full(out_dir)
    if (of_device := device_error(error)) is not None:
        return of_device
    no_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if no_memory or says_no_memory(message):
        details = f". {message}" if message else ""
        return HostOutOfMemory(f"the machine has no memory left: {MEMORY_ADVICE}{details}")
    if isinstance(error, torch.distributed.DistError):
        return RankLost(f"another process of the run was lost: {message}")
    return None
