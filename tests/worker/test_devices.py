"""What a worker is given to train on; the GPUs are whatever this machine has, most likely none."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sqlalchemy import select

import worker.devices
from app.db import Database
from app.workers.models import Worker
from worker import fleet
from worker.devices import Device, cpu, devices, has_nvidia_card, parse_list, problem_of
from worker.registration import deregister, register


def test_the_processor_alone_and_together() -> None:
    assert devices("cpu") == [cpu()]
    for (both,) in (devices("cpu,cpu"), devices("cpu", per_run=2)):
        assert both.id == "cpu,cpu"
        assert both.name == f"2 x {cpu().name}"
        assert both.memory_bytes == cpu().memory_bytes, "it is the same memory"


def test_gpus_are_given_out_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    four = [Device(f"cuda:{i}", "H100", 80, f"GPU-{i}") for i in range(4)]
    monkeypatch.setattr(worker.devices, "gpus", lambda: (four, None))
    assert devices("auto") == devices("cuda") == four
    assert devices("cuda:2") == devices("GPU-2") == [four[2]]
    pairs = [
        Device("cuda:0,cuda:1", "2 x H100", 160, "GPU-0,GPU-1"),
        Device("cuda:2,cuda:3", "2 x H100", 160, "GPU-2,GPU-3"),
    ]
    assert devices("auto", per_run=2) == pairs
    assert devices("cuda:2, cuda:3") == pairs[1:]
    with pytest.raises(LookupError, match="4 devices cannot be divided into groups of 3"):
        devices("auto", per_run=3)
    with pytest.raises(LookupError, match="no device cuda:7 here"):
        devices("cuda:0,cuda:7")


@pytest.fixture
def broken_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has the probes meet a PyTorch that behaves so, on a machine with a card."""

    def use(program: str) -> None:
        monkeypatch.setattr(worker.devices, "_LIST", program)
        monkeypatch.setattr(worker.devices, "_COMPUTE", program)

    monkeypatch.setattr(worker.devices, "has_nvidia_card", lambda: True)
    monkeypatch.setattr(worker.devices, "_uuids", list)
    return use


TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."


@pytest.mark.integration
def test_auto_says_why_it_takes_the_processor(broken_torch: Callable[[str], None]) -> None:
    broken_torch(f"import json; print(json.dumps([{TOO_OLD!r}, []]))")
    (device,) = devices("auto")
    assert (device.id, device.note) == ("cpu", f"no GPU can be used: {TOO_OLD}")
    with pytest.raises(LookupError, match=r"there is no device cuda here.*is too old"):
        devices("cuda")


@pytest.mark.integration
def test_a_probe_that_hangs_or_dies_is_a_reason(
    broken_torch: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.devices, "PROBE_S", 0.5)
    broken_torch("import time; time.sleep(60)")
    assert devices("auto")[0].note == "no GPU can be used: PyTorch did not answer within 0 s"
    monkeypatch.setattr(worker.devices, "PROBE_S", 60)
    broken_torch("raise RuntimeError('CUDA error: unspecified launch failure')")
    reason = "RuntimeError: CUDA error: unspecified launch failure"
    assert devices("auto")[0].note == f"no GPU can be used: {reason}"
    assert problem_of(Device("cuda:0", "H100", 80)) == reason
    advice = "\\nFor debugging consider CUDA_LAUNCH_BLOCKING=1\\nCompile with `DSA` to enable\\n"
    broken_torch(f"raise RuntimeError('CUDA error: unspecified launch failure{advice}')")
    assert problem_of(Device("cuda:0", "H100", 80)) == reason
    broken_torch("import os; os._exit(3)")
    assert problem_of(Device("cuda:0", "H100", 80)) == "PyTorch ended with status 3"
    broken_torch("")
    assert problem_of(Device("cuda:0", "H100", 80)) is None
    assert problem_of(cpu()) is None


@pytest.mark.integration
def test_without_a_card_the_processor_needs_no_reason(
    broken_torch: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_torch("import json; print(json.dumps(['this PyTorch is built without CUDA', []]))")
    monkeypatch.setattr(worker.devices, "has_nvidia_card", lambda: False)
    assert devices("auto") == [cpu()]


def test_a_card_without_a_driver_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    (tmp_path / "0000:01:00.1").mkdir()
    (tmp_path / "0000:01:00.1" / "vendor").write_text("0x10de\n")
    (tmp_path / "0000:01:00.1" / "class").write_text("0x040300\n")  # its sound
    assert not has_nvidia_card(tmp_path)
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "vendor").write_text("0x10de\n")
    (tmp_path / "0000:01:00.0" / "class").write_text("0x030200\n")
    assert has_nvidia_card(tmp_path)


def test_what_torch_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The probe's program, with the answers of machines that are not at hand."""

    def answer() -> Any:
        exec(worker.devices._LIST, {})
        return json.loads(capsys.readouterr().out)

    cards = [
        SimpleNamespace(name="NVIDIA H100", total_memory=80, uuid="5d5b"),
        SimpleNamespace(name="NVIDIA A100 MIG 1g.5gb", total_memory=5, uuid="c6d4"),
    ]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
    found = [["NVIDIA H100", 80, "GPU-5d5b"], ["NVIDIA A100 MIG 1g.5gb", 5, None]]
    assert answer() == [None, found]

    def init() -> None:
        raise RuntimeError(TOO_OLD)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    assert answer() == [TOO_OLD, []]
    monkeypatch.setattr(torch.version, "cuda", None)
    assert answer() == ["this PyTorch is built without CUDA", []]


LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-80e348fa-9b1c-2a7c-3c0e-1b3ba15b8dd9)
"""


@pytest.mark.integration
def test_mig_instances_are_devices_instead_of_their_gpu(
    broken_torch: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA shows a process one of them; so each is asked for, and bound, by its own name."""
    names = parse_list(LISTED.splitlines())
    assert [name[:8] for name in names] == ["MIG-c6d4", "MIG-cba6", "GPU-80e3"]
    monkeypatch.setattr(worker.devices, "_uuids", lambda: names)
    broken_torch(
        "import json, os\n"
        "print(json.dumps([None, [[os.environ['CUDA_VISIBLE_DEVICES'], 5, 'GPU-x']]]))"
    )
    found = devices("auto")
    assert [(device.id, device.name, device.uuid) for device in found] == [
        (f"cuda:{index}", name, name) for index, name in enumerate(names)
    ]
    assert devices(names[1]) == [found[1]]
    with pytest.raises(LookupError, match="MIG instances cannot train one run together"):
        devices("cuda:0,cuda:1")


def test_trainers_see_the_cards_of_their_worker_by_uuid() -> None:
    second = Device("cuda:1", "H100", 80, "GPU-1")
    assert (second.bound_id, second.environment()) == ("cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-1"})
    pair = Device("cuda:2,cuda:3", "2 x H100", 160, "GPU-2,GPU-3")
    assert pair.bound_id == "cuda:0,cuda:1"
    assert pair.environment() == {"CUDA_VISIBLE_DEVICES": "GPU-2,GPU-3"}
    assert (cpu().bound_id, cpu().environment()) == ("cpu", {})


@pytest.mark.integration
def test_a_fleet_starts_its_workers_by_uuid_and_leaves_a_lost_card_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[str] = []
    exits = {
        "GPU-0": f"import sys; sys.exit({fleet.EXIT_NO_DEVICE})",
        "GPU-1": "import sys; sys.exit(1)",
    }
    real_start = subprocess.Popen

    def start(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        name = command[command.index("--device") + 1]
        started.append(name)
        if started.count("GPU-1") == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real_start([sys.executable, "-c", exits[name]], **options)

    monkeypatch.setattr(fleet, "RESTART_S", 0.2)
    monkeypatch.setattr(fleet.subprocess, "Popen", start)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        fleet.run_fleet([Device(f"cuda:{i}", "H100", 80, f"GPU-{i}") for i in range(2)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert (started.count("GPU-0"), started.count("GPU-1")) == (1, 3)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_registration_says_why_the_cpu_and_why_a_worker_left(database: Database) -> None:
    on_cpu, lost = register(database, cpu("no GPU can be used")), register(database, cpu())
    deregister(database, on_cpu)
    deregister(database, lost, "cuda:0 cannot be used any more")
    with database.read() as session:
        notes = {row.id: row.note for row in session.scalars(select(Worker))}
    assert notes == {on_cpu: "no GPU can be used", lost: "cuda:0 cannot be used any more"}
