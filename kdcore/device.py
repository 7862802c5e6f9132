"""The device of a run, its precision, memory and allocator; trains nothing."""

import ctypes
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from kdcore.config import Precision
from kdcore.errors import (
    MEMORY_ADVICE,
    ConfigError,
    DeviceLost,
    DeviceOutOfMemory,
    KdcoreError,
    says_device_lost,
    says_no_device_memory,
)
from kdcore.shapes import ModelShape

ResolvedPrecision = Literal["fp32", "bf16"]
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_GIB = 1 << 30
_TOKENS_AT_ONCE = {"cpu": 1 << 10, "cuda": 1 << 15}


def prepare_process() -> None:
    """Set this process up for training: glibc keeps large freed blocks.

    Call it before the first large tensor. A training step frees and allocates the same large
    tensors again and again; by default each of them is a fresh mapping whose pages fault in one by
    one. A no-op where the C library is another.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, ctypes.c_int(_GIB))
    libc.mallopt(_M_TRIM_THRESHOLD, ctypes.c_int(2 * _GIB - 1))


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes the first GPU (`auto:1` the second), else the CPU.

    Raises ConfigError if that is not the name of a device, DeviceLost if this machine lacks it.
    """
    kind, _, index = name.partition(":")
    if kind == "auto":
        name = f"cuda:{index or 0}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(("device",), f"'{name}' is not a device: use cpu, cuda:0, ...") from None
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        if device.index >= torch.cuda.device_count():
            raise DeviceLost(
                f"this machine has {torch.cuda.device_count()} CUDA devices; there is no {name}"
            )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(("device",), f"'{name}' is not supported: use cpu or cuda")
    return device


def why_no_gpu() -> str | None:
    """Why `auto` takes the CPU on a machine with an NVIDIA driver; None where there is none."""
    if torch.version.cuda is None or torch.cuda.is_available():
        return None
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        return None if "Found no NVIDIA driver" in str(error) else str(error)
    return None


def use_device(device: torch.device) -> None:
    """Make a GPU the current device, and have it compute deterministically.

    Call it before CUDA starts. An operation that has no deterministic form raises
    RuntimeError. `warn_only` would leave the backward of torch's attention kernels as it is: they
    add with atomics, in any order.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Otherwise each `empty` fills its memory, which is written before it is read anyway.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.cuda.set_device(device)


def emulates_bf16(device: torch.device) -> bool:
    """Whether bf16 is slower here than fp32: GPUs older than Ampere emulate it."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return not torch.cuda.is_bf16_supported(including_emulation=False)


def pick_precision(wanted: Precision, device: torch.device) -> ResolvedPrecision:
    """`wanted`, or for `auto` bf16 if a matrix product in bf16 is clearly faster here."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "fp32" if emulates_bf16(device) else "bf16"
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


def free_bytes(device: torch.device) -> int:
    """Free memory: of the device, or of the host within its container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")
        return free if limit == "max" else min(free, int(limit) - int(used))
    except (OSError, ValueError):
        return free


def pick_max_tokens_per_microbatch(
    shape: ModelShape, device: torch.device, share: float = 0.5
) -> int:
    """Tokens of a microbatch for a model of `shape` while it trains.

    As many as make the matrix products fast, or as fit this share of the free memory beside the
    gradients and AdamW's two moments; at least 256.
    """
    hidden, inner = shape.hidden_size, shape.intermediate_size
    # Kept for the gradient: about 12 vectors of the hidden size and 3 of the inner one a layer,
    # and the attention weights with their dropout.
    vectors = shape.layers * (12 * hidden + 3 * inner + 2 * shape.heads * shape.max_positions)
    parameters = (shape.vocab_size or 0) * hidden + shape.layers * (4 * hidden + 2 * inner) * hidden
    room = free_bytes(device) * share - 3 * 4 * parameters
    fitting = max(256, int(room / (4 * vectors)))
    return min(_TOKENS_AT_ONCE[device.type], 1 << (fitting.bit_length() - 1))


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A host array as a tensor on `device`; the host does not wait for the copy."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def device_error(error: BaseException) -> KdcoreError | None:
    """The typed error of the accelerator, out of memory or lost; None for any other error."""
    words = str(error)
    if isinstance(error, torch.OutOfMemoryError) or says_no_device_memory(words):
        return DeviceOutOfMemory(f"the device has no memory left: {MEMORY_ADVICE}. {words}")
    if says_device_lost(words):
        return DeviceLost(f"the device is missing, busy or broken: {words}")
    return None


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a timer read next counts all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device) -> str:
    """A description of the device for the run's log."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return f"CPU, {torch.get_num_threads()} threads"
