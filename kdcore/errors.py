"""Errors of the training library; each carries the typed code that a run fails with.

KdcoreError
├── ConfigError      code `config`       a setting cannot work; `field` names it
├── DataError        code `data`         the corpus, tokenizer or checkpoint is missing or unusable
│   └── HubUnavailable                   a hub id was asked for and the hub cannot be reached
├── NonFiniteLoss    code `nan`          the loss became NaN or infinite; never retried
├── DeviceOutOfMemory code `oom_device`
├── HostOutOfMemory  code `oom_host`
├── DiskFull         code `disk_full`
├── RankLost         code `worker_lost`  another process of the same run is gone
├── RanksDiffer      code `internal`     the processes of a run do not do the same
└── CheckpointError  code `data`         a checkpoint is unreadable or fails its checksums
"""

import errno
import shutil
from pathlib import Path
from typing import Literal

FailureCode = Literal[
    "config", "data", "nan", "oom_device", "oom_host", "disk_full", "worker_lost", "internal"
]


MEMORY_ADVICE = (
    "use a smaller model or tokenizer, or a shorter seq_len; a large batch takes little more, for "
    "it goes through the model in parts"
)
_NO_HOST_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "Unable to allocate",
    "bad_alloc",
    "memory allocation of",
    "can't start new thread",
    "Thread creation failed",
    "ThreadPoolBuildError",
    "failed to map segment",
)
"""How PyTorch, NumPy, C++, Rust, Python, OpenMP and the loader say that the host has no more."""


class KdcoreError(Exception):
    """Base of all errors that a run reports in words; `code` is the typed failure."""

    code: FailureCode = "internal"


class ConfigError(KdcoreError):
    """A setting that cannot work.

    `field` is the path of the setting inside the config, for instance
    `("layers", "keep")`; the message says what is wrong and what would be right.
    """

    code: FailureCode = "config"

    def __init__(self, field: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"{'.'.join(map(str, field))}: {message}" if field else message)
        self.field = field
        self.message = message


class DataError(KdcoreError):
    """The corpus, tokenizer or checkpoint is missing, empty or unusable."""

    code: FailureCode = "data"


class HubUnavailable(DataError):
    """A hub id was asked for and the hub cannot be reached from this machine."""


class CheckpointError(DataError):
    """A checkpoint is unreadable, incomplete, or fails its checksums."""


class NonFiniteLoss(KdcoreError):
    """The loss became NaN or infinite at `step`."""

    code: FailureCode = "nan"

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class DeviceOutOfMemory(KdcoreError):
    """The accelerator has no memory left for this batch."""

    code: FailureCode = "oom_device"


class HostOutOfMemory(KdcoreError):
    """The machine has no memory left for this run."""

    code: FailureCode = "oom_host"


class DiskFull(KdcoreError):
    """The disk is full; the message says how many bytes were needed where."""

    code: FailureCode = "disk_full"


class RankLost(KdcoreError):
    """Another process of the same run is gone; the run can go on from its last checkpoint."""

    code: FailureCode = "worker_lost"


class RanksDiffer(KdcoreError):
    """The processes of a run have different settings, layers or weights."""


def disk_full(folder: Path, needed_bytes: int | None = None) -> DiskFull:
    """The disk-full error in words: how much was needed, if that is known, and what is free."""
    needed = "more was" if needed_bytes is None else f"{needed_bytes:,} bytes were"
    free_bytes = shutil.disk_usage(folder).free
    return DiskFull(
        f"no space left in {folder}: {needed} needed, {free_bytes:,} bytes are free. "
        "Free some space and submit the run again"
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk, or this user's share of it, has no room; libraries in Rust only say so."""
    return (
        isinstance(error, DiskFull)
        or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or any(words in str(error) for words in ("No space left on device", "Disk quota exceeded"))
    )


def says_no_memory(text: str) -> bool:
    """Whether these words, an error's or a crashed process's last ones, mean the host's memory."""
    return any(words in text for words in _NO_HOST_MEMORY)
