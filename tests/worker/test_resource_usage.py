"""What a worker uses of its machine, measured on real processes."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import NoReturn

import psutil
import pynvml
import pytest

from worker.devices import Device, cpu
from worker.resource_usage import STALE_AFTER, Meter


@pytest.mark.integration
def test_memory_and_processor_time_of_the_worker_and_its_children() -> None:
    meter = Meter(cpu(), every_s=60)
    meter.measure()
    hold = "data = bytearray(64 << 20); print(1, flush=True)\nwhile True: pass"
    child = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        spent_s = psutil.Process(child.pid).cpu_times().user
        while psutil.Process(child.pid).cpu_times().user < spent_s + 0.3:
            time.sleep(0.05)
        used = meter.measure()
    finally:
        child.kill()
        child.communicate()
    own_bytes = psutil.Process(os.getpid()).memory_info().rss
    assert used["memory_bytes"] > own_bytes / 2 + (64 << 20)
    assert used["cpu_cores"] > 0
    # The child is gone, and with it the time that it took.
    assert meter.measure()["cpu_cores"] >= 0


class FakeDriver:
    """NVML with GPUs by UUID: load in percent and used bytes, None for what it does not know."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **gpus: tuple[int | None, int | None]):
        self.sessions = 0
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: self.count(1))
        monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: self.count(-1))
        monkeypatch.setattr(
            pynvml,
            "nvmlDeviceGetHandleByUUID",
            lambda uuid: gpus[uuid] if uuid in gpus else self.fail(pynvml.NVML_ERROR_NOT_FOUND),
        )
        monkeypatch.setattr(
            pynvml,
            "nvmlDeviceGetUtilizationRates",
            lambda gpu: SimpleNamespace(gpu=self.known(gpu[0]), memory=1),
        )
        monkeypatch.setattr(
            pynvml,
            "nvmlDeviceGetMemoryInfo",
            lambda gpu, version: SimpleNamespace(used=self.known(gpu[1]), version=version),
        )

    def count(self, change: int) -> None:
        self.sessions += change

    def known(self, figure: int | None) -> int:
        return self.fail(pynvml.NVML_ERROR_NOT_SUPPORTED) if figure is None else figure

    @staticmethod
    def fail(code: int) -> NoReturn:
        raise pynvml.NVMLError(code)


def usage_of(uuid: str) -> dict[str, float]:
    used = Meter(Device("cuda:0", "H100", 80, uuid), every_s=60).measure()
    return {name: value for name, value in used.items() if name.startswith("device_")}


def test_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(monkeypatch, a=(87, 4213))
    assert usage_of("a") == {"device_busy": 0.87, "device_memory_used_bytes": 4213}
    assert usage_of("b") == {}, "it is lost"
    assert driver.sessions == 0


def test_gpus_that_work_together_are_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeDriver(monkeypatch, a=(80, 2), b=(40, 3))
    assert usage_of("a,b") == {"device_busy": 0.6, "device_memory_used_bytes": 5}


def test_a_figure_that_the_driver_does_not_know_takes_no_other_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeDriver(monkeypatch, a=(None, 4213), b=(87, None), c=(None, None), d=(80, 2))
    assert usage_of("a") == {"device_memory_used_bytes": 4213}
    assert usage_of("b") == {"device_busy": 0.87}
    assert usage_of("c") == {}
    # Of two GPUs, one figure would be half the truth.
    assert usage_of("d,a") == {"device_memory_used_bytes": 4215}


def test_a_machine_without_a_driver_is_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pynvml, "nvmlInit", lambda: FakeDriver.fail(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    )
    assert usage_of("a") == {}


class FakeMeter(Meter):
    """Takes its measurements from a function."""

    def __init__(self, measure: Callable[[], dict[str, float]]) -> None:
        super().__init__(cpu(), every_s=0.05)
        self.measure = measure  # type: ignore[method-assign]


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_failed_measurement_is_logged_and_the_next_one_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = [RuntimeError("driver fault"), RuntimeError("driver fault")]

    def measure() -> dict[str, float]:
        if failures:
            raise failures.pop()
        return {"cpu_cores": 1.0}

    meter = FakeMeter(measure)
    meter.start()
    try:
        wait_for(lambda: meter.latest == {"cpu_cores": 1.0})
    finally:
        meter.stop()
    assert caplog.text.count("RuntimeError: driver fault") == 2


def test_an_old_measurement_is_not_reported_while_the_driver_hangs() -> None:
    hung, release = threading.Event(), threading.Event()
    calls = iter(range(10**6))

    def measure() -> dict[str, float]:
        if next(calls) == 2:
            hung.set()
            release.wait(20)
        return {"cpu_cores": 1.0}

    meter = FakeMeter(measure)
    meter.start()
    try:
        assert hung.wait(10)
        wait_for(lambda: meter.latest is None)
        release.set()
        wait_for(lambda: meter.latest is not None)
    finally:
        release.set()
        meter.stop()


def test_a_measurement_is_reported_for_three_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = FakeMeter(lambda: {"cpu_cores": 1.0})
    meter._latest = meter._try()
    assert meter._latest is not None
    measured_s = meter._latest[0]
    monkeypatch.setattr(time, "monotonic", lambda: measured_s + STALE_AFTER * 0.05 - 0.01)
    assert meter.latest == {"cpu_cores": 1.0}
    monkeypatch.setattr(time, "monotonic", lambda: measured_s + STALE_AFTER * 0.05 + 0.01)
    assert meter.latest is None
