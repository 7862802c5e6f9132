"""Errors of the training library; each carries the typed code that a run fails with.

KdcoreError
├── ConfigError      code `config`       a setting cannot work; `field` names it
├── DataError        code `data`         the corpus, tokenizer or checkpoint is missing or unusable
│   └── HubUnavailable                   a hub id was asked for and the hub cannot be reached
├── NonFiniteLoss    code `nan`          the loss became NaN or infinite; never retried
├── DeviceOutOfMemory code `oom_device`
├── HostOutOfMemory  code `oom_host`
├── DiskFull         code `disk_full`
├── DeviceLost       code `device_lost`  the accelerator is missing, busy or broken; tried again
├── RankLost         code `worker_lost`  another process of the same run died
├── RanksDiffer      code `internal`     the processes of a run do not do the same
└── CheckpointError  code `data`         a checkpoint is unreadable or fails its checksums
"""

import errno
import re
import shutil
from pathlib import Path
from typing import Literal

FailureCode = Literal[
    "config",
    "data",
    "nan",
    "oom_device",
    "oom_host",
    "disk_full",
    "device_lost",
    "worker_lost",
    "internal",
]


MEMORY_ADVICE = (
    "use a smaller model or tokenizer, or a shorter seq_len; the batch size matters "
    "little, since batches are split into microbatches"
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
"""Messages of PyTorch, NumPy, C++, Rust, Python, OpenMP and the loader: host out of memory."""
_NO_DEVICE_MEMORY = re.compile(
    r"CUDA out of memory"
    r"|(CUDA error: |Cuda failure (\d+ )?'?)out of memory"
    r"|_STATUS_ALLOC_FAILED"
)
"""How PyTorch, CUDA's libraries and NCCL report that the device is out of memory."""
_DEVICE_FAULT = re.compile(
    r"CUDA error:|CUDA driver error|Cuda failure|unhandled cuda error|cudaGetDeviceCount"
    r"|No CUDA GPUs are available|NVIDIA driver|Torch not compiled with CUDA|NVML error"
)
_OF_THE_PROGRAM = re.compile(
    r"device-side assert|invalid argument|invalid configuration|invalid resource handle"
    r"|misaligned address|operation not (supported|permitted)|CUBLAS_STATUS_(INVALID|NOT_SUPPORTED)"
)
"""CUDA errors that any device would raise: cudaErrorAssert, cudaErrorInvalidValue and the like."""
_COLLECTIVE = re.compile(r"ProcessGroupNCCL|Watchdog caught collective operation timeout")


class KdcoreError(Exception):
    """Base of all errors that a run reports; `code` is the typed failure."""

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


class DeviceLost(KdcoreError):
    """The accelerator is missing, busy or broken; another one can resume from the checkpoint."""

    code: FailureCode = "device_lost"


class RankLost(KdcoreError):
    """Another process of the same run died; the run can resume from its last checkpoint."""

    code: FailureCode = "worker_lost"


class RanksDiffer(KdcoreError):
    """The processes of a run have different settings, layers or weights."""


def disk_full(folder: Path, needed_bytes: int | None = None) -> DiskFull:
    """The error for a full disk: how much was needed, if known, and how much is free."""
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
    """Whether a message, of an error or a crashed process, means that the host is out of memory."""
    return any(words in text for words in _NO_HOST_MEMORY)


def says_no_device_memory(text: str) -> bool:
    """Whether a message means that an accelerator is out of memory."""
    return _NO_DEVICE_MEMORY.search(text) is not None


def says_device_lost(text: str) -> bool:
    """Whether a message means that an accelerator is missing, busy or broken.

    Any error of CUDA's does (cudaErrorNoDevice, cudaErrorDevicesUnavailable,
    cudaErrorECCUncorrectable, cudaErrorLaunchFailure, a missing or outdated driver, ...), except
    for lack of memory and for programming errors.
    """
    found = _DEVICE_FAULT.search(text) is not None
    return found and not (says_no_device_memory(text) or _OF_THE_PROGRAM.search(text))


def says_rank_lost(text: str) -> bool:
    """Whether this is the standard error of a process that NCCL's watchdog ended."""
    return _COLLECTIVE.search(text) is not None
