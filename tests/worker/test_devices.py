"""What a worker is given to train on; the GPUs are whatever this machine has, most likely none."""

import pytest

import worker.devices
from worker.devices import Device, cpu, devices
from worker.usage import parse_nvidia_smi


def test_the_processor_alone_and_together() -> None:
    assert devices("cpu") == [cpu()]
    for (both,) in (devices("cpu,cpu"), devices("cpu", per_run=2)):
        assert both.id == "cpu,cpu"
        assert both.name == f"2 x {cpu().name}"
        assert both.memory_bytes == cpu().memory_bytes, "it is the same memory"


def test_gpus_are_given_out_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    four = [Device(f"cuda:{i}", "H100", 80, f"GPU-{i}") for i in range(4)]
    monkeypatch.setattr(worker.devices, "gpus", lambda: four)
    assert devices("auto") == devices("cuda") == four
    assert devices("cuda:2") == [four[2]]
    pairs = [
        Device("cuda:0,cuda:1", "2 x H100", 160, "GPU-0,GPU-1"),
        Device("cuda:2,cuda:3", "2 x H100", 160, "GPU-2,GPU-3"),
    ]
    assert devices("auto", per_run=2) == pairs
    assert devices("cuda:2, cuda:3") == pairs[1:]
    with pytest.raises(LookupError, match="4 devices cannot be given out 3 at a time"):
        devices("auto", per_run=3)
    with pytest.raises(LookupError, match="no device cuda:7 here"):
        devices("cuda:0,cuda:7")


def test_gpus_that_work_together_are_measured_together() -> None:
    assert parse_nvidia_smi("80, 2\n40, 3\n") == {
        "device_busy": 0.6,
        "device_memory_used_bytes": 5 * 1024**2,
    }
    for useless, complaint in (("", "at least one data point"), ("[N/A], 2\n", "N/A")):
        with pytest.raises(ValueError, match=complaint):
            parse_nvidia_smi(useless)
