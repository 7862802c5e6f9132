"""Finds the devices of this machine; asks torch in a subprocess, to keep it out of our memory."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

VISIBLE = "CUDA_VISIBLE_DEVICES"
PROBE_S = 120.0
# torch decides, because it handles CUDA_VISIBLE_DEVICES and drivers that are too old.
_LIST = """
import json, torch
problem = None
if torch.version.cuda is None and torch.version.hip is None:
    problem = "this PyTorch is built without CUDA"
elif not torch.cuda.is_available():
    try:
        torch.cuda.init()
    except Exception as error:
        problem = str(error)
found = []
for index in range(torch.cuda.device_count() if problem is None else 0):
    card = torch.cuda.get_device_properties(index)
    # torch's UUID of a MIG instance is not the one for CUDA_VISIBLE_DEVICES.
    known = torch.version.cuda and "MIG" not in card.name
    found.append([card.name, card.total_memory, f"GPU-{card.uuid}" if known else None])
print(json.dumps([problem, found]))
"""
_COMPUTE = """
import sys, torch
for name in sys.argv[1:]:
    ones = torch.ones(64, 64, device=name)
    assert (ones @ ones).sum().item() == 64**3, f"{name} computes wrongly"
"""
_NVIDIA_PCI = "0x10de"


@dataclass(frozen=True)
class Device:
    """What one run trains on: one device, or several together."""

    id: str
    """`cpu`, `cuda:0` or `cuda:0,cuda:1`, as torch counts without further binding."""
    name: str
    memory_bytes: int | None
    uuid: str | None = None
    """UUID of a GPU or MIG instance at the driver; several are separated by commas."""
    note: str | None = None
    """Why this is not a GPU."""

    @property
    def is_gpu(self) -> bool:
        return self.id.startswith("cuda")

    @property
    def bound_id(self) -> str:
        """Its name in processes that see no other GPU."""
        if self.uuid is None:
            return self.id
        return ",".join(f"cuda:{index}" for index in range(len(self.uuid.split(","))))

    def environment(self) -> dict[str, str]:
        """Variables that show a process these GPUs only; by UUID, because numbers change when a
        card falls off the bus."""
        return {VISIBLE: self.uuid} if self.uuid else {}


def cpu(note: str | None = None) -> Device:
    """This machine's processor."""
    return Device("cpu", _processor_name(), psutil.virtual_memory().total, note=note)


def gpus() -> tuple[list[Device], str | None]:
    """The GPUs and MIG instances that torch can use, and the problem if it can use none.

    The reason is None on a machine without a GPU.
    """
    # CUDA shows a process one MIG instance at most, so each gets a subprocess.
    names = _uuids()
    probes = names if any(map(_is_mig, names)) else [None]
    found: list[Device] = []
    problem = None
    for name in probes:
        try:
            problem, rows = json.loads(_torch(_LIST, environment={VISIBLE: name} if name else {}))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            problem, rows = _reason(error), []
        for model, memory_bytes, uuid in rows:
            found.append(Device(f"cuda:{len(found)}", model, memory_bytes, name or uuid))
    if found or not (problem and has_nvidia_card()):
        problem = None
    return found, problem


def problem_of(device: Device) -> str | None:
    """Why nothing can be computed on this device now; None if it works. Takes seconds."""
    if not device.is_gpu:
        return None
    try:
        _torch(_COMPUTE, *device.bound_id.split(","), environment=device.environment())
    except (OSError, subprocess.SubprocessError) as error:
        return _reason(error)
    return None


def devices(wanted: str, per_run: int = 1) -> list[Device]:
    """The devices of each worker.

    `wanted` is `auto`, `cpu`, `cuda`, `cuda:N` or a UUID, grouped by `per_run`; or several names
    with commas, which form one group. Raises LookupError for a device that does not exist.
    """
    names = [name.strip() for name in wanted.split(",")]
    there, problem = gpus() if any(name != "cpu" for name in names) else ([], None)
    if len(names) > 1:
        return [_together([device for name in names for device in _named(name, there, problem)])]
    found = _named(wanted, there, problem)
    if not found[0].is_gpu:
        found *= per_run
    if len(found) % per_run:
        raise LookupError(f"{len(found)} devices cannot be divided into groups of {per_run}")
    return [_together(found[i : i + per_run]) for i in range(0, len(found), per_run)]


def has_nvidia_card(pci: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether there is an NVIDIA GPU, with a driver or (on Linux) without one."""
    if shutil.which("nvidia-smi"):
        return True
    for vendor in pci.glob("*/vendor"):
        try:
            kind = (vendor.parent / "class").read_text()
            if vendor.read_text().strip() == _NVIDIA_PCI and kind.startswith("0x03"):
                return True
        except OSError:  # it was removed meanwhile
            continue
    return False


def _named(name: str, there: list[Device], problem: str | None) -> list[Device]:
    if name == "cpu":
        return [cpu()]
    if name == "auto" and not there:
        return [cpu(problem and f"no GPU can be used: {problem}")]
    chosen = [device for device in there if name in (device.id, device.uuid, "cuda", "auto")]
    if not chosen:
        seen = ", ".join(device.id for device in there) or "no GPU"
        why = f": {problem}" if problem else ""
        raise LookupError(f"there is no device {name} here; torch sees {seen}{why}")
    return chosen


def _together(several: list[Device]) -> Device:
    if len(several) == 1:
        return several[0]
    names = Counter(device.name for device in several)
    uuids = [device.uuid for device in several if device.uuid]
    if any(map(_is_mig, uuids)):
        raise LookupError(
            "MIG instances cannot train one run together: CUDA shows a process only one"
        )
    return Device(
        id=",".join(device.id for device in several),
        name=", ".join(f"{count} x {name}" for name, count in names.items()),
        # A device that is named twice has its memory once.
        memory_bytes=sum({each.id: each.memory_bytes or 0 for each in several}.values()) or None,
        uuid=",".join(uuids) or None,
        note=several[0].note,
    )


def _uuids() -> list[str]:
    """The names in CUDA_VISIBLE_DEVICES, or else the UUIDs that `nvidia-smi -L` lists."""
    if (visible := os.environ.get(VISIBLE)) is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        answer = subprocess.run(
            [command, "-L"], capture_output=True, text=True, timeout=PROBE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_list(answer.stdout.splitlines())


def parse_list(lines: Iterable[str]) -> list[str]:
    """The UUIDs in the output of `nvidia-smi -L`: of MIG instances, and of GPUs without any."""
    names: list[str] = []
    for line in lines:
        if (found := re.search(r"UUID: ((?:GPU|MIG)-[^)]+)\)", line)) is None:
            continue
        if _is_mig(found[1]) and names and not _is_mig(names[-1]):
            names.pop()  # the GPU of this instance
        names.append(found[1])
    return names


def _is_mig(name: str) -> bool:
    return name.startswith("MIG-")


def _torch(program: str, *arguments: str, environment: dict[str, str]) -> bytes:
    """The output of `program` in a subprocess."""
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        capture_output=True,
        timeout=PROBE_S,
        check=True,
        env=os.environ | environment,
    ).stdout


def _reason(error: Exception) -> str:
    """Why a probe failed: the exception that it raised, or else its last line."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"PyTorch did not answer within {error.timeout:.0f} s"
    if not isinstance(error, subprocess.CalledProcessError):
        return str(error)
    output: str = error.stderr.decode(errors="replace")
    lines = [line for line in output.splitlines() if line.strip()]
    # CUDA appends lines of debugging advice to an error.
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (raised or lines or [f"PyTorch ended with status {error.returncode}"])[-1].strip()


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
