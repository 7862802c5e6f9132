"""Which devices this machine has; never imports torch, which would stay in the worker's memory."""

import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

# CUDA_VISIBLE_DEVICES and drivers that do not fit are torch's business, so torch is asked.
_PROBE = """
import json, torch
print(json.dumps([
    [p.name, p.total_memory, f"GPU-{p.uuid}"]
    for p in map(torch.cuda.get_device_properties, range(
        torch.cuda.device_count() if torch.cuda.is_available() else 0
    ))
]))
"""


@dataclass(frozen=True)
class Device:
    """One place to train."""

    id: str
    """`cpu` or `cuda:0`, ..."""
    name: str
    memory_bytes: int | None
    uuid: str | None = None
    """By which the driver knows a GPU, whatever CUDA_VISIBLE_DEVICES makes of its number."""


def cpu() -> Device:
    """This machine's processor."""
    return Device("cpu", _processor_name(), psutil.virtual_memory().total)


def gpus() -> list[Device]:
    """The GPUs that torch can use; none where torch sees none."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, timeout=120, check=True
        )
        found = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return [Device(f"cuda:{index}", *about) for index, about in enumerate(found)]


def devices(wanted: str) -> list[Device]:
    """The devices that `auto`, `cpu` or `cuda:N` stands for; raises LookupError for none."""
    if wanted == "cpu":
        return [cpu()]
    found = gpus()
    if wanted == "auto":
        return found or [cpu()]
    chosen = [device for device in found if wanted in (device.id, "cuda")]
    if not chosen:
        there = ", ".join(device.id for device in found) or "no GPU"
        raise LookupError(f"there is no device {wanted} here; torch sees {there}")
    return chosen


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
