"""What this machine can do, and how much memory a process took; imports nothing of kdcore.

The reference imports this module too, so nothing here changes a process unless it is asked to.
"""

import ctypes
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

GIB = 1 << 30
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_ONEDNN: Any = torch.backends.mkldnn
_EXACT = 1e-6
"""Greatest relative error of a product that was computed in fp32."""


def use_fast_allocator() -> bool:
    """Let glibc keep freed blocks, so that their pages do not fault in again; False elsewhere."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, ctypes.c_int(GIB))
    libc.mallopt(_M_TRIM_THRESHOLD, ctypes.c_int(2 * GIB - 1))
    return True


def matmul_settings() -> list[str]:
    """Values of oneDNN's fp32 switch worth trying: the default, and those that leave fp32 exact.

    'bf16' and 'tf32' allow oneDNN to round; where the hardware has nothing to round for, they only
    send products to oneDNN instead of MKL, which may be faster.
    """
    exact = ["none"]
    for setting in ("bf16", "tf32"):
        with matmul_setting(setting):
            if _matmul_error() < _EXACT:
                exact.append(setting)
    return exact


@contextmanager
def matmul_setting(value: str) -> Iterator[None]:
    """oneDNN's fp32 switch set to `value`."""
    before = _ONEDNN.matmul.fp32_precision
    set_matmul(value)
    try:
        yield
    finally:
        set_matmul(before)


def set_matmul(value: str) -> None:
    _ONEDNN.matmul.fp32_precision = value


def _matmul_error() -> float:
    generator = torch.Generator().manual_seed(0)
    left = torch.rand(128, 512, generator=generator) - 0.5
    right = torch.rand(256, 512, generator=generator) - 0.5
    exact = left.double() @ right.double().T
    error = torch.nn.functional.linear(left, right).double() - exact
    return float(error.norm() / exact.norm())


def gemm_gflops(
    size: tuple[int, int, int], dtype: torch.dtype, device: torch.device, for_s: float
) -> float:
    """Best rate, in 10^9 operations a second, of (m, k) x (k, n) products in `for_s` seconds."""
    m, n, k = size
    left = torch.rand(m, k, device=device).to(dtype)
    right = torch.rand(n, k, device=device).to(dtype)
    best_s, end_s, repeats = float("inf"), time.perf_counter() + for_s, 0
    with torch.inference_mode():
        while repeats < 3 or time.perf_counter() < end_s:
            start_s = time.perf_counter()
            torch.nn.functional.linear(left, right)
            synchronize(device)
            best_s = min(best_s, time.perf_counter() - start_s)
            repeats += 1
    return 2.0 * m * n * k / best_s / 1e9


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(device: torch.device) -> int:
    """Most memory that this process held at once: of the device, or resident on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_model() -> str:
    """The processor's name; the architecture where the kernel does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model na")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()


def facts(device: torch.device) -> dict[str, Any]:
    """What a figure's reader needs to know of the machine."""
    known: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "torch": torch.__version__,
        "device": str(device),
    }
    if device.type == "cuda":
        known["gpu"] = torch.cuda.get_device_name(device)
    return known


# ------------------------------------------------------------------------------------------ FLOPs


def _linear_flops(a_shape: Any, w_shape: Any, *_: Any, **__: Any) -> int:
    rows = 1
    for extent in a_shape[:-1]:
        rows *= extent
    return int(2 * rows * w_shape[0] * w_shape[1])


def _add_product_flops(_into: Any, a_shape: Any, b_shape: Any, *_: Any, **__: Any) -> int:
    batch = 1
    for extent in a_shape[:-1]:
        batch *= extent
    return int(2 * batch * a_shape[-1] * b_shape[-1])


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward_flops(
    grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any
) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]


def flop_counter() -> FlopCounterMode:
    """Counts multiplications and additions of matrix products and attention.

    torch's own table lacks the CPU's fused attention and products that add in place.
    """
    aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
    attention = "_scaled_dot_product_flash_attention_for_cpu"
    table: dict[Any, Any] = {
        getattr(aten, attention): _attention_flops,
        getattr(aten, f"{attention}_backward"): _attention_backward_flops,
        aten.addmm_: _add_product_flops,
        aten.baddbmm_: _add_product_flops,
        aten.mkldnn_linear: _linear_flops,
    }
    if hasattr(mkldnn, "_linear_pointwise"):
        table[mkldnn._linear_pointwise] = _linear_flops
    return FlopCounterMode(display=False, custom_mapping=table)
