"""What the errors of a machine are called."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcore.errors import DataError, DeviceOutOfMemory, DiskFull, HostOutOfMemory
from kdcore.place import typed_failures


def numpy_asks_for_too_much() -> object:
    return np.empty(1 << 60, dtype=np.int8)


def torch_asks_for_too_much() -> object:
    return torch.empty(1 << 60, dtype=torch.int8)


def test_the_host_is_out_of_memory(tmp_path: Path) -> None:
    for ask in (numpy_asks_for_too_much, torch_asks_for_too_much):
        with (
            pytest.raises(HostOutOfMemory, match="use a smaller model") as caught,
            typed_failures(tmp_path),
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
    with pytest.raises(HostOutOfMemory), typed_failures(tmp_path):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_the_device_is_out_of_memory(tmp_path: Path, error: Exception) -> None:
    """As PyTorch words it; on a machine without a GPU nobody can make it say so."""
    with (
        pytest.raises(DeviceOutOfMemory, match="use a smaller model") as caught,
        typed_failures(tmp_path),
    ):
        raise error
    assert caught.value.code == "oom_device"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        Exception("No space left on device (os error 28)"),  # as the tokenizers' Rust says it
    ],
)
def test_the_disk_is_full(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(DiskFull, match="bytes are free"), typed_failures(tmp_path):
        raise error


@pytest.mark.parametrize("error", [DataError("no text"), ValueError("x"), RuntimeError("shape")])
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, typed_failures(tmp_path):
        raise error
    assert caught.value is error
