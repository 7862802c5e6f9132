"""What the errors of a machine are called."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcore.device import pick_device
from kdcore.distributed.process_group import Ranks
from kdcore.errors import (
    DataError,
    DeviceLost,
    DeviceOutOfMemory,
    DiskFull,
    HostOutOfMemory,
    KdcoreError,
    RankLost,
)
from kdcore.train.failures import map_machine_errors


def numpy_asks_for_too_much() -> object:
    return np.empty(1 << 60, dtype=np.int8)


def torch_asks_for_too_much() -> object:
    return torch.empty(1 << 60, dtype=torch.int8)


def test_the_host_is_out_of_memory(tmp_path: Path) -> None:
    for ask in (numpy_asks_for_too_much, torch_asks_for_too_much):
        with (
            pytest.raises(HostOutOfMemory, match="use a smaller model") as caught,
            map_machine_errors(tmp_path),
        ):
            ask()
        assert caught.value.code == "oom_host"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("can't start new thread"),
        RuntimeError("std::bad_alloc"),
        ImportError("libx.so: failed to map segment from shared object"),
    ],
)
def test_libraries_say_in_their_own_words_that_the_host_is_full(
    tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(HostOutOfMemory), map_machine_errors(tmp_path):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory"),
        torch.distributed.DistBackendError("NCCL error: Cuda failure 2 'out of memory'"),
    ],
)
def test_the_device_is_out_of_memory(tmp_path: Path, error: Exception) -> None:
    """As PyTorch words it; on a machine without a GPU it cannot be provoked."""
    with (
        pytest.raises(DeviceOutOfMemory, match="use a smaller model") as caught,
        map_machine_errors(tmp_path),
    ):
        raise error
    assert caught.value.code == "oom_device"


DEVICE_FAULTS = [
    torch.AcceleratorError("CUDA error: no CUDA-capable device is detected"),
    torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."),
    RuntimeError("Found no NVIDIA driver on your system."),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError(
        "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized"
    ),
    torch.distributed.DistBackendError("NCCL error in: x.cpp, unhandled cuda error"),
]


@pytest.mark.parametrize("error", DEVICE_FAULTS, ids=str)
def test_a_device_that_is_missing_busy_or_broken_is_lost(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(DeviceLost) as caught, map_machine_errors(tmp_path):
        raise error
    assert caught.value.code == "device_lost"
    assert str(error) in str(caught.value)


def test_a_device_that_this_machine_lacks_is_lost() -> None:
    with pytest.raises(DeviceLost, match="there is no cuda:99"):
        pick_device("cuda:99")


@pytest.mark.parametrize("words", ["device-side assert triggered", "invalid argument"])
def test_mistakes_that_any_device_would_refuse_are_not_the_devices(
    tmp_path: Path, words: str
) -> None:
    error = torch.AcceleratorError(f"CUDA error: {words}")
    with pytest.raises(torch.AcceleratorError) as caught, map_machine_errors(tmp_path):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64 MiB"), DeviceOutOfMemory),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), DeviceLost),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), HostOutOfMemory),
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), RankLost),
        (torch.distributed.DistNetworkError("recv failed"), RankLost),
    ],
    ids=str,
)
def test_what_goes_wrong_inside_a_collective_keeps_its_type(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: RuntimeError,
    expected: type[KdcoreError],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.distributed, "all_reduce", fail)
    with pytest.raises(expected), map_machine_errors(tmp_path):
        Ranks(world=2).sum(torch.ones(1))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        Exception("No space left on device (os error 28)"),  # as the tokenizers' Rust says it
    ],
)
def test_the_disk_is_full(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(DiskFull, match="bytes are free"), map_machine_errors(tmp_path):
        raise error


@pytest.mark.parametrize("error", [DataError("no text"), ValueError("x"), RuntimeError("shape")])
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, map_machine_errors(tmp_path):
        raise error
    assert caught.value is error
