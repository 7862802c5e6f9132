"""Live streams: the API killed under them, thousands of them, readers that hardly read."""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import psutil
from sqlalchemy import select

from app.cli.client import Client, ClientError
from app.runs.models import LogLine
from faults.figures import Figure, Row, percentile
from faults.installation import ROOT, Installation, installation, teacher, wait_for
from faults.trial import Trial

WATCHERS = 50
OTHERS_WITHIN_S = 1.0
"""A page that answers within a second does not break a train of thought (Nielsen, 1993)."""
STUCK_S = 10.0
"""The short form shares its machine with other tests: it only sees that nothing is stuck."""
PAST = 1000
"""Events that lie before the readers come."""
STREAM_KIB = 128.0
"""The limit of 5,000 streams then takes 640 MiB, which an API may have."""
SHORT_STREAM_KIB = 256.0
"""Of the short form: what all streams share is spread over few of them."""
GROWTH_MIB = 32.0
TRAINING_S, RESTING_S = 0.05, 0.95
"""A run of usual size logs a few points a second; this tiny one would log seventy."""


# ---------------------------------------------------------------------------- the API is killed


class Watcher:
    """A person's `halflayer runs watch`: the real client, and what it received."""

    def __init__(self, stand: Installation, run_id: str) -> None:
        self._stand, self._run_id = stand, run_id
        self.seen: Counter[tuple[Any, ...]] = Counter()
        self.lost = False

    def watch(self) -> None:
        with Client(self._stand.url, self._stand.token) as client:
            try:
                for event, data in client.events(self._run_id):
                    if event == "metrics":
                        self.seen["metrics", data["attempt"], data["step"]] += 1
                    elif event == "log":
                        self.seen["log", data["level"], data["message"]] += 1
            except ClientError:
                self.lost = True


def _written(stand: Installation, run_id: str) -> Counter[tuple[Any, ...]]:
    """What was to be received: each sequence number once."""
    points = {point.seq: point for point in stand.points(run_id)}
    written = Counter(("metrics", point.attempt, point.step) for point in points.values())
    with stand.db.read() as session:
        for line in session.scalars(select(LogLine).where(LogLine.run_id == run_id)):
            written["log", line.level, line.message] += 1
    return written


def killed_api(trial: Trial) -> Iterator[Row]:
    """Kills the API at random moments while many watch a run."""
    draw = trial.random("killed-api")
    kills = trial.times(2, 10)
    with installation(trial.new_folder("killed-api")) as stand:
        corpus = stand.upload_text()
        config = teacher(corpus, kills * 1500)
        config["reporting"]["checkpoint_every_s"] = 60
        run_id = stand.client.submit_run(config)["id"]
        stand.wait_points(run_id)
        watchers = [Watcher(stand, run_id) for _ in range(WATCHERS)]
        done = 0
        with ThreadPoolExecutor(WATCHERS) as pool:
            watching = [pool.submit(watcher.watch) for watcher in watchers]
            wait_for(lambda: all(each.seen for each in watchers), 60, "all to see something")
            for done in range(1, kills + 1):
                trial.say(f"the API is killed for the {done}th time of {kills}")
                before = [each.seen.total() for each in watchers]
                stand.api.restart()
                stand.wait_ready()
                wait_for(
                    lambda before=before: all(
                        each.seen.total() > count or each.lost
                        for each, count in zip(watchers, before, strict=True)
                    ),
                    120,
                    "all to go on",
                )
                time.sleep(draw.uniform(0, 2.0))
            stand.client.cancel(run_id)
            stand.wait_final([run_id])
            for each in watching:
                each.result(timeout=120)
        written = _written(stand, run_id)
    yield Row(
        f"SIGKILL of the API while {WATCHERS} watch a run",
        done,
        "the watchers reconnect by themselves and go on where they were",
        [
            Figure("stream_gaps", sum((written - each.seen).total() for each in watchers)),
            Figure("stream_duplicates", sum((each.seen - written).total() for each in watchers)),
            Figure("streams_lost", sum(each.lost for each in watchers)),
        ],
        {"events": written.total()},
    )


# -------------------------------------------------------------------------------- thousands


class CrowdProcess:
    """`faults.many_clients` and how to talk to it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send one line, read one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def crowd(stand: Installation, run_id: str) -> Iterator[CrowdProcess]:
    """A process full of readers of this run."""
    process = subprocess.Popen(
        [sys.executable, "-m", "faults.many_clients"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin is not None
    first = {"port": stand.port, "path": f"/api/v1/runs/{run_id}/events", "token": stand.token}
    process.stdin.write(json.dumps(first) + "\n")
    try:
        yield CrowdProcess(process)
    finally:
        process.kill()
        process.communicate()


class Visitor:
    """Opens pages, one after the other, and notes how long each took."""

    def __init__(self, stand: Installation, run_id: str) -> None:
        self.took_s: list[float] = []
        self.failed = 0
        self._stand, self._run_id = stand, run_id
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> "Visitor":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()

    def _visit(self) -> None:
        run = f"/runs/{self._run_id}"
        pages = ["/runs", run, f"{run}/metrics?max_points=300", f"{run}/log", "/workers"]
        while not self._end.wait(0.05):
            for page in pages:
                start_s = time.monotonic()
                try:
                    self.failed += not self._stand.http.get(page).is_success
                except httpx.HTTPError:
                    self.failed += 1
                self.took_s.append(time.monotonic() - start_s)


def _live_run(stand: Installation) -> str:
    """A run that trains on and on, with so much of a past that no slow reader takes it at once."""
    config = teacher(stand.upload_text(), 10**6)
    config["reporting"]["checkpoint_every_s"] = 600
    config["schedule"] |= {"batch_size": 1, "accumulation_steps": 1}
    run_id: str = stand.client.submit_run(config)["id"]
    wait_for(lambda: stand.run(run_id).event_seq > PAST, 240, "a past", every_s=1)
    return run_id


@contextmanager
def _paced(trainers: list[psutil.Process]) -> Iterator[None]:
    """Let them train a small part of each second, as if they were larger or on another machine."""
    end = threading.Event()

    def pace() -> None:
        with suppress(psutil.NoSuchProcess):  # the run has ended
            while not end.wait(TRAINING_S):
                for each in trainers:
                    each.suspend()
                end.wait(RESTING_S)
                for each in trainers:
                    each.resume()

    pacing = threading.Thread(target=pace)
    pacing.start()
    try:
        yield
    finally:
        end.set()
        pacing.join()


def _rss_bytes(stand: Installation) -> int:
    return psutil.Process(stand.api.process.pid).memory_info().rss


def _kept(stand: Installation, ports: set[int]) -> int:
    """Connections that this host still holds for the readers at these ports, the API or not."""
    return sum(
        each.laddr.port == stand.port and bool(each.raddr) and each.raddr.port in ports
        for each in psutil.net_connections("tcp4")
    )


def many_streams(trial: Trial) -> Iterator[Row]:
    """As many readers as the server takes and some more, among them slow ones, on a live run."""
    readers, slow = trial.times(200, 5000), trial.times(10, 100)
    patience_s = trial.times(10, 120)
    settings = {
        "HALFLAYER_STREAM_PATIENCE_S": str(patience_s),
        "HALFLAYER_MAX_CONNECTIONS_PER_ADDRESS": "6000",  # all of them come from this machine
    }
    if not trial.long:
        settings["HALFLAYER_MAX_STREAMS"] = str(readers)
    with installation(trial.new_folder("streams"), **settings) as stand:
        run_id = _live_run(stand)
        with (
            _paced(stand.workers[0].trainers(run_id)),
            crowd(stand, run_id) as readers_process,
        ):
            with Visitor(stand, run_id) as alone:
                time.sleep(trial.times(2, 20))
            before = _rss_bytes(stand)
            trial.say(f"{slow} slow readers, then {readers} others, join")
            joined_slow = readers_process.ask(do="join_slow", readers=slow)
            start_s = time.monotonic()
            joined = readers_process.ask(do="join", readers=readers)
            joined_s = time.monotonic() - start_s
            time.sleep(2)
            full = _rss_bytes(stand)
            trial.say(f"{joined['served']} read, others ask for pages")
            with Visitor(stand, run_id) as among:
                time.sleep(trial.times(5, 60))
            grown = _rss_bytes(stand) - full
            slow_ports = set(readers_process.ask(do="tell")["slow_ports"])
            deadline = time.monotonic() + 3 * patience_s
            while (kept := _kept(stand, slow_ports)) and time.monotonic() < deadline:
                time.sleep(1)
            stand.client.cancel(run_id)
            stand.wait_final([run_id])
            last_seq = stand.run(run_id).event_seq
            told = _wait_told(readers_process, joined["served"])
    at_most_s = OTHERS_WITHIN_S if trial.long else STUCK_S
    at_most_kib = STREAM_KIB if trial.long else SHORT_STREAM_KIB
    served = joined["served"] + joined_slow["served"]
    yield Row(
        f"{readers} readers of a live run, and {slow} that take 1 byte a second",
        served,
        "the view is live; beyond the limit 503 with Retry-After; slow ones are cut off",
        [
            Figure("stream_gaps", told["gaps"] + (told["last_ids"] != [last_seq])),
            Figure("stream_duplicates", told["duplicates"]),
            Figure("streams_lost", joined["served"] - told["ended"]),
            Figure("streams_not_answered", joined["others"] + joined_slow["others"]),
            Figure("slow_readers_kept", kept),
            Figure("stream_kib", (full - before) / 1024 / served, at_most_kib),
            Figure("stream_growth_mib", max(0, grown) / 1024**2, GROWTH_MIB),
            Figure("other_requests_failed", among.failed + alone.failed),
            Figure("other_requests_p99_s", percentile(among.took_s, 0.99), at_most_s),
        ],
        {
            "refused": joined["refused"] + joined_slow["refused"],
            "joined_s": round(joined_s, 1),
            "other_requests": len(among.took_s),
            "other_requests_median_s": round(percentile(among.took_s, 0.5), 3),
            "alone_p99_s": round(percentile(alone.took_s, 0.99), 3),
        },
    )


def _wait_told(readers: CrowdProcess, served: int) -> dict[str, Any]:
    """What the readers received, once all got the end event, or nothing changes any more."""
    for _ in range(60):
        told = readers.ask(do="tell")
        if told["ended"] >= served:
            break
        time.sleep(1)
    return told
