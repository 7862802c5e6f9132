"""What this machine is and how to use it well: device, arithmetic, allocator; trains nothing."""

import ctypes
import platform
import sys
import time
from typing import Literal

import torch

from kdcore.config import Precision
from kdcore.errors import ConfigError

ResolvedPrecision = Literal["fp32", "bf16"]
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_GIB = 1 << 30


def keep_freed_memory() -> None:
    """Tell glibc not to return large freed blocks to the kernel.

    A training step frees and takes the same large tensors again and again; by default each of
    them is a fresh mapping whose pages fault in one by one. A no-op where the C library is another.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, ctypes.c_int(_GIB))
    libc.mallopt(_M_TRIM_THRESHOLD, ctypes.c_int(2 * _GIB - 1))


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes the first GPU, else the CPU.

    Raises ConfigError if this machine lacks it.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(("device",), f"'{name}' is no device: use cpu, cuda:0, ...") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            ("device",),
            f"this machine has {torch.cuda.device_count()} CUDA devices; there is no {name}",
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(("device",), f"'{name}' is not supported: use cpu or cuda")
    return device


def pick_precision(wanted: Precision, device: torch.device) -> ResolvedPrecision:
    """`wanted`, or for `auto` bf16 if a matrix product in bf16 is clearly faster here."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "fp32"
    return "bf16" if _gemm_s(torch.bfloat16) * 1.25 < _gemm_s(torch.float32) else "fp32"


def _gemm_s(dtype: torch.dtype) -> float:
    """Best time of a matrix product of a training step's size, after a warm-up."""
    left, right = torch.rand(512, 768).to(dtype), torch.rand(768, 768).to(dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - start)
    return best


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read next is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device) -> str:
    """The device in words, for the run's log."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return f"CPU, {torch.get_num_threads()} threads"
