"""Which devices this machine has; never imports torch, which would stay in the worker's memory."""

import json
import platform
import subprocess
import sys
from collections import Counter
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
    """Where one run at a time trains: one place, or several together."""

    id: str
    """`cpu`, `cuda:0` or `cuda:0,cuda:1`, as the trainer takes it."""
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
            [sys.executable, "-P", "-c", _PROBE], capture_output=True, timeout=120, check=True
        )
        found = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return [Device(f"cuda:{index}", *about) for index, about in enumerate(found)]


def devices(wanted: str, per_run: int = 1) -> list[Device]:
    """What each worker shall have of the devices that `wanted` stands for.

    `wanted` is `auto`, `cpu`, `cuda` or `cuda:N`, of which `per_run` go together; or several names
    with commas, which all go together. Raises LookupError for what is not there.
    """
    names = [name.strip() for name in wanted.split(",")]
    there = gpus() if any(name != "cpu" for name in names) else []
    if len(names) > 1:
        return [_together([device for name in names for device in _named(name, there)])]
    found = _named(wanted, there)
    if found == [cpu()]:
        found *= per_run
    if len(found) % per_run:
        raise LookupError(f"{len(found)} devices cannot be given out {per_run} at a time")
    return [_together(found[i : i + per_run]) for i in range(0, len(found), per_run)]


def _named(name: str, there: list[Device]) -> list[Device]:
    if name == "cpu" or (name == "auto" and not there):
        return [cpu()]
    chosen = [device for device in there if name in (device.id, "cuda", "auto")]
    if not chosen:
        seen = ", ".join(device.id for device in there) or "no GPU"
        raise LookupError(f"there is no device {name} here; torch sees {seen}")
    return chosen


def _together(several: list[Device]) -> Device:
    if len(several) == 1:
        return several[0]
    names = Counter(device.name for device in several)
    uuids = [device.uuid for device in several if device.uuid]
    return Device(
        id=",".join(device.id for device in several),
        name=", ".join(f"{count} x {name}" for name, count in names.items()),
        # The processor named twice has its memory once.
        memory_bytes=sum({each.id: each.memory_bytes or 0 for each in several}.values()) or None,
        uuid=",".join(uuids) or None,
    )


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
