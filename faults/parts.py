"""`halflayer up` whose parts are killed: its worker again and again, its guardian, it itself."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from app.local.embedded_broker import free_port
from app.local.state import find_server
from faults.figures import Figure, Row, percentile
from faults.installation import Process, wait_for
from faults.trial import Trial
from tests.fixtures.orphan_guard import OrphanGuard, orphan_guard

START_S = 90.0
GONE_S = 30.0
ANSWER_WITHIN_S = 1.0
API_MIB = 400.0
LOG_MIB_A_MINUTE = 1.0
PARTS = {
    "Valkey": "valkey",
    "API": "app.server",
    "worker": "worker.main",
    "guardian": "app.local.reaper",
}


class Up:
    """A `halflayer up` on one data folder, always at the same port."""

    def __init__(self, folder: Path, held: OrphanGuard) -> None:
        self.data_dir = folder / "data"
        self._port = free_port()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HALFLAYER_")}
        environment |= {
            "HALFLAYER_DATA_DIR": str(self.data_dir),
            "HALFLAYER_PORT": str(self._port),
            "HALFLAYER_STANDBY": "false",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.process = Process("up", "app.cli up", environment, folder / "up.out", held)
        self.wait_ready()

    def wait_ready(self) -> None:
        wait_for(lambda: find_server(self.data_dir), START_S, self.process.log_text()[-2000:])

    def part(self, name: str) -> psutil.Process | None:
        """The child of this name that is alive now."""
        for child in psutil.Process(self.process.process.pid).children():
            with suppress(psutil.Error):
                if any(PARTS[name] in word for word in child.cmdline()):
                    return child
        return None

    def answers(self) -> bool:
        """Whether the API is ready; raises for none that answers."""
        url = f"http://127.0.0.1:{self._port}/readyz"
        return bool(httpx.get(url, timeout=10, trust_env=False).is_success)

    def log_bytes(self) -> int:
        """All that it and its parts have logged."""
        return sum(path.stat().st_size for path in (self.data_dir / "logs").iterdir())


@contextmanager
def asking(up: Up, took_s: list[float], failed: list[str]) -> Iterator[None]:
    """The API is asked five times a second."""
    end = threading.Event()

    def ask() -> None:
        while not end.wait(0.2):
            start_s = time.monotonic()
            try:
                if not up.answers():
                    failed.append("not ready")
            except httpx.HTTPError as error:
                failed.append(type(error).__name__)
            took_s.append(time.monotonic() - start_s)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _alive(processes: list[psutil.Process], within_s: float) -> int:
    return len(psutil.wait_procs(processes, timeout=within_s)[1])


def _worker_kills(trial: Trial, up: Up) -> Row:
    took_s: list[float] = []
    failed: list[str] = []
    kills = trial.times(5, 8)
    logged, start_s = up.log_bytes(), time.monotonic()
    others = [part for name in ("Valkey", "API", "guardian") if (part := up.part(name))]
    with asking(up, took_s, failed):
        for number in range(kills):
            trial.say(f"the worker is killed as soon as it is back: {number} of {kills}")
            worker = wait_for(lambda: up.part("worker"), 120, "a worker")
            worker.kill()
            wait_for(lambda before=worker: up.part("worker") != before, 60, "its end to be seen")
    api = up.part("API")
    minutes = max(1.0, (time.monotonic() - start_s) / 60)
    return Row(
        "SIGKILL of the worker of `halflayer up` as soon as it is back",
        kills,
        "`worker exited with code -9; restarting in 7 s (attempt 4)`; all else goes on",
        [
            Figure("installations_ended", int(not up.process.alive)),
            Figure("other_parts_ended", 3 - sum(part.is_running() for part in others)),
            Figure("other_requests_failed", len(failed), reason="; ".join(set(failed))),
            Figure("other_requests_p99_s", percentile(took_s, 0.99), ANSWER_WITHIN_S),
            Figure("api_rss_mib", api.memory_info().rss / 2**20 if api else 0.0, API_MIB),
            Figure(
                "log_a_minute_mib", (up.log_bytes() - logged) / 2**20 / minutes, LOG_MIB_A_MINUTE
            ),
        ],
        {"other_requests": len(took_s)},
    )


def _guardian_kills(trial: Trial, up: Up) -> Row:
    survivors, times = 0, trial.times(1, 3)
    for number in range(times):
        trial.say(f"the guardian is killed, then up: {number} of {times}")
        guardian = wait_for(lambda: up.part("guardian"), 30, "a guardian")
        guardian.kill()
        wait_for(lambda before=guardian: up.part("guardian") not in (None, before), 30, "a new one")
        time.sleep(1)  # the others are told to stop at the same time
        processes = psutil.Process(up.process.process.pid).children(recursive=True)
        up.process.kill()
        survivors += _alive(processes, GONE_S)
        up.process.start()
        up.wait_ready()
    return Row(
        "SIGKILL of the guardian, and some seconds later of `halflayer up`",
        times,
        "`guardian exited with code -9; restarted`; then all parts end",
        [Figure("survivors", survivors)],
    )


def _both_killed(trial: Trial, up: Up) -> Row:
    survivors, failed_starts, times = 0, 0, trial.times(1, 3)
    for number in range(times):
        trial.say(f"up and its guardian are killed at once: {number} of {times}")
        wait_for(lambda: up.part("worker"), 60, "a worker")
        processes = psutil.Process(up.process.process.pid).children(recursive=True)
        guardian = up.part("guardian")
        assert guardian is not None
        guardian.kill()
        up.process.kill()
        up.process.start()
        try:
            up.wait_ready()
        except TimeoutError:
            failed_starts += 1
        survivors += _alive(processes, 1)
    up.process.signal(signal.SIGTERM)
    status = up.process.process.wait(60)
    return Row(
        "SIGKILL of `halflayer up` and its guardian at once; then `halflayer up` again",
        times,
        "`ending what an earlier start left running: ...`, then it is ready at the same address",
        [
            Figure("survivors", survivors),
            Figure("failed_starts", failed_starts),
            Figure("left_in_disorder", int(status != 0)),
        ],
    )


def parts(trial: Trial) -> Iterator[Row]:
    """One installation, as a user starts it."""
    with orphan_guard() as held:
        up = Up(trial.new_folder("parts"), held)
        try:
            yield _worker_kills(trial, up)
            yield _guardian_kills(trial, up)
            yield _both_killed(trial, up)
        finally:
            up.process.kill()
