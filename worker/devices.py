"""Which devices this machine has; never imports torch, which would stay in the worker's memory."""

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
# CUDA_VISIBLE_DEVICES and drivers that do not fit are torch's business, so torch is asked.
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
    # What torch knows of a MIG instance is not what CUDA_VISIBLE_DEVICES calls it.
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
    """Where one run at a time trains: one place, or several together."""

    id: str
    """`cpu`, `cuda:0` or `cuda:0,cuda:1`, as torch counts without further binding."""
    name: str
    memory_bytes: int | None
    uuid: str | None = None
    """By which the driver knows a GPU or MIG instance, whatever its number; `,` between several."""
    note: str | None = None
    """Why this device and no GPU."""

    @property
    def is_gpu(self) -> bool:
        return self.id.startswith("cuda")

    @property
    def bound_id(self) -> str:
        """What it is called by processes that see no other GPU."""
        if self.uuid is None:
            return self.id
        return ",".join(f"cuda:{index}" for index in range(len(self.uuid.split(","))))

    def environment(self) -> dict[str, str]:
        """Variables that show a process these GPUs only, by UUID: a number means another card as
        soon as one falls off the bus."""
        return {VISIBLE: self.uuid} if self.uuid else {}


def cpu(note: str | None = None) -> Device:
    """This machine's processor."""
    return Device("cpu", _processor_name(), psutil.virtual_memory().total, note=note)


def gpus() -> tuple[list[Device], str | None]:
    """The GPUs and MIG instances that torch can use, and what is wrong if it can use none.

    The reason is None on a machine without a GPU.
    """
    # CUDA shows a process one MIG instance at most: each is asked for by itself.
    names = _names()
    probes = names if any(map(_is_mig, names)) else [None]
    found: list[Device] = []
    problem = None
    for name in probes:
        try:
            problem, rows = json.loads(_torch(_LIST, environment={VISIBLE: name} if name else {}))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            problem, rows = _words(error), []
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
        return _words(error)
    return None


def devices(wanted: str, per_run: int = 1) -> list[Device]:
    """What each worker shall have of the devices that `wanted` stands for.

    `wanted` is `auto`, `cpu`, `cuda`, `cuda:N` or a UUID, of which `per_run` go together; or
    several names with commas, which all go together. Raises LookupError for what is not there.
    """
    names = [name.strip() for name in wanted.split(",")]
    there, problem = gpus() if any(name != "cpu" for name in names) else ([], None)
    if len(names) > 1:
        return [_together([device for name in names for device in _named(name, there, problem)])]
    found = _named(wanted, there, problem)
    if not found[0].is_gpu:
        found *= per_run
    if len(found) % per_run:
        raise LookupError(f"{len(found)} devices cannot be given out {per_run} at a time")
    return [_together(found[i : i + per_run]) for i in range(0, len(found), per_run)]


def has_nvidia_card(pci: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether a GPU of NVIDIA's is plugged in, with a driver or (as Linux knows) without one."""
    if shutil.which("nvidia-smi"):
        return True
    for vendor in pci.glob("*/vendor"):
        try:
            kind = (vendor.parent / "class").read_text()
            if vendor.read_text().strip() == _NVIDIA_PCI and kind.startswith("0x03"):
                return True
        except OSError:  # it was unplugged meanwhile
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
        raise LookupError("MIG instances cannot train one run together: CUDA shows one a process")
    return Device(
        id=",".join(device.id for device in several),
        name=", ".join(f"{count} x {name}" for name, count in names.items()),
        # The processor named twice has its memory once.
        memory_bytes=sum({each.id: each.memory_bytes or 0 for each in several}.values()) or None,
        uuid=",".join(uuids) or None,
        note=several[0].note,
    )


def _names() -> list[str]:
    """What CUDA_VISIBLE_DEVICES, or else `nvidia-smi -L`, names; instances instead of their GPU."""
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
    """The UUIDs in the answer of `nvidia-smi -L`: of MIG instances, and of GPUs without any."""
    names: list[str] = []
    for line in lines:
        if (found := re.search(r"UUID: ((?:GPU|MIG)-[^)]+)\)", line)) is None:
            continue
        if _is_mig(found[1]) and names and not _is_mig(names[-1]):
            names.pop()  # the GPU that it is part of
        names.append(found[1])
    return names


def _is_mig(name: str) -> bool:
    return name.startswith("MIG-")


def _torch(program: str, *arguments: str, environment: dict[str, str]) -> bytes:
    """What `program` prints in a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        capture_output=True,
        timeout=PROBE_S,
        check=True,
        env=os.environ | environment,
    ).stdout


def _words(error: Exception) -> str:
    """Why a probe failed: the exception that it raised, or else the last line that it said."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"PyTorch did not answer within {error.timeout:.0f} s"
    if not isinstance(error, subprocess.CalledProcessError):
        return str(error)
    said: str = error.stderr.decode(errors="replace")
    lines = [line for line in said.splitlines() if line.strip()]
    # What CUDA says of an error goes on with lines of advice for debugging.
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
