"""A whole installation as real processes, with proxies before its database and its broker."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil
from sqlalchemy import func, select
from sqlalchemy.engine import make_url

from app.auth.service import create_token
from app.cli.client import Client, Json
from app.db import Database
from app.local.embedded_broker import free_port
from app.migrations import upgrade
from app.runs.models import Artifact, LogLine, MetricPoint, Run
from app.runs.states import FINAL
from app.settings import Settings
from faults.proxy import Proxy
from tests.fixtures.broker import RunningBroker
from tests.fixtures.orphan_guard import OrphanGuard, orphan_guard
from tests.fixtures.postgres import PostgresServer, running_postgres

Kind = Literal["sqlite", "postgres"]
IMPATIENT = {
    "HALFLAYER_HEARTBEAT_S": "0.5",
    "HALFLAYER_LEASE_S": "4",
    "HALFLAYER_REQUEUE_AFTER_S": "2",
    # Its loading would be most of what the processors do, and seldom be done before the next fault.
    "HALFLAYER_STANDBY": "false",
    # Faults are injected more often between two checkpoints than on any real machine.
    "HALFLAYER_MAX_ATTEMPTS_WITHOUT_PROGRESS": "1000",
}
"""Times of recovery short enough to be seen often."""
READY_S = 60.0
ROOT = Path(__file__).parents[1]
# fsync may be off, for no fault here takes the operating system down; a commit must be written.
POSTGRES_OPTIONS = ("-c", "fsync=off", "-c", "full_page_writes=off")


def wait_for(
    condition: Callable[[], Any], timeout_s: float, what: str, every_s: float = 0.1
) -> Any:
    """The first true value of `condition`; raises TimeoutError with `what`."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(every_s)
    return found


class Process:
    """One process of the installation, leader of a group of its own."""

    def __init__(
        self, name: str, module: str, environment: dict[str, str], log: Path, held: OrphanGuard
    ) -> None:
        self.name, self._command = name, [sys.executable, "-m", *module.split()]
        self._environment, self._log, self._tether = environment, log, held
        self.start()

    def start(self) -> None:
        """Start it, or restart it."""
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._tether.hold(self.process.pid)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the process itself."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; waits until it has exited."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def leave(self, timeout_s: float = 60) -> tuple[int, float]:
        """SIGTERM; its exit status, and the seconds that it took to go."""
        start_s = time.monotonic()
        self.signal(signal.SIGTERM)
        return self.process.wait(timeout_s), time.monotonic() - start_s

    def restart(self) -> None:
        """Kill it and restart it, as a service manager does."""
        self.kill()
        self.start()

    def trainers(self, run_id: str) -> list[psutil.Process]:
        """Its children that carry out this run."""
        found = []
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if any(f"/{run_id}/" in each.path for each in child.open_files()):
                        found.append(child)
        return found

    def log_text(self) -> str:
        """All that it has written."""
        return self._log.read_text(errors="replace")


class Installation:
    """A running installation; its database and broker are behind `db_proxy` and `broker_proxy`."""

    def __init__(self, folder: Path, kind: Kind, stack: ExitStack, extra: dict[str, str]) -> None:
        self.folder, self.kind, self._stack = folder, kind, stack
        self.data_dir = folder / "data"
        self.data_dir.mkdir(parents=True)
        self._tether = stack.enter_context(orphan_guard())
        self.postgres: PostgresServer | None = None
        self.db_proxy: Proxy | None = None
        self.database_url = f"sqlite:///{self.data_dir / 'halflayer.db'}"
        proxied_url = self.database_url
        if kind == "postgres":
            self.postgres = stack.enter_context(running_postgres(POSTGRES_OPTIONS))
            self._tether.hold(self.postgres.pid)
            self.postgres.execute("CREATE DATABASE halflayer")
            self.database_url = self.postgres.url("halflayer")
            self.db_proxy = self._proxy(self.postgres.socket)
            proxied_url = (
                f"postgresql+psycopg://postgres@127.0.0.1:{self.db_proxy.port}/halflayer"
                "?sslmode=disable&gssencmode=disable"
            )
        upgrade(self.database_url)
        self.broker = RunningBroker(folder / "valkey.log").start()
        stack.callback(self.broker.stop)
        assert self.broker.process is not None
        self._tether.hold(self.broker.process.pid)
        self.broker_proxy = self._proxy(("127.0.0.1", self.broker.port))
        broker_url = make_url(self.broker.url).set(port=self.broker_proxy.port)
        self.port = free_port()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HALFLAYER_")},
            "HALFLAYER_DATA_DIR": str(self.data_dir),
            "HALFLAYER_DATABASE_URL": proxied_url,
            "HALFLAYER_BROKER_URL": broker_url.render_as_string(hide_password=False),
            "HALFLAYER_PORT": str(self.port),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **extra,
        }
        self.url = f"http://127.0.0.1:{self.port}"
        self.db = Database(self.database_url)
        """Past the proxy: for looking, while the installation's own way is cut."""
        stack.callback(self.db.close)
        with self.db.write() as session:
            self.token = create_token(session, "api", "faults", "admin")[1]
        self.client = Client(self.url, self.token)
        stack.callback(self.client.close)
        self.http = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=30,
            trust_env=False,
        )
        stack.callback(self.http.close)
        self.workers: list[Process] = []
        self.api: Process
        self.undisturbed = ""
        """An undisturbed run, to compare others with."""

    def _proxy(self, target: tuple[str, int] | Path) -> Proxy:
        proxy = Proxy(target)
        self._stack.callback(proxy.close)
        return proxy

    @property
    def settings(self) -> Settings:
        """As its processes read them."""
        given = {k: v for k, v in self.environment.items() if k.startswith("HALFLAYER_")}
        return Settings(**{k.removeprefix("HALFLAYER_").lower(): v for k, v in given.items()})

    # ------------------------------------------------------------------------------ processes

    def start_process(self, name: str, module: str, **changes: str) -> Process:
        """A further process of the installation; it ends with the stand."""
        environment = self.environment | changes
        process = Process(name, module, environment, self.folder / f"{name}.log", self._tether)
        self._stack.callback(process.kill)
        return process

    def start_api(self) -> None:
        self.api = self.start_process("api", "app.server")
        self.wait_ready()

    def start_worker(self, device: str = "cpu", **changes: str) -> Process:
        name = f"worker-{len(self.workers)}"
        worker = self.start_process(name, f"worker.main --device {device}", **changes)
        self.workers.append(worker)
        return worker

    def is_ready(self) -> bool:
        """Whether the API serves, and its database answers."""
        with suppress(httpx.HTTPError, ValueError):
            return bool(httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).is_success)
        return False

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        wait_for(self.is_ready, timeout_s, f"the API\n{self.api.log_text()[-2000:]}")

    def stop_broker(self) -> None:
        """End the broker, and with it all that it holds."""
        self.broker.stop()

    def start_broker(self) -> None:
        """Restart it, at the same address."""
        port = self.broker.port
        self.broker.start()
        assert self.broker.process is not None
        assert self.broker.port == port, "the broker's port was taken"
        self._tether.hold(self.broker.process.pid)

    def stop_postgres(self) -> None:
        """End the database server at once: its immediate mode."""
        assert self.postgres is not None
        self.postgres.stop()

    def start_postgres(self) -> None:
        """Restart it; it recovers first."""
        assert self.postgres is not None
        self.postgres.serve()
        self._tether.hold(self.postgres.pid)

    # ------------------------------------------------------------------------------------ runs

    def upload_text(self, seed: int = 0) -> Json:
        """The reference to a small text, uploaded over REST."""
        draw = random.Random(seed)
        names = ("fox", "dog", "tree", "river", "cloud", "stone", "house", "bird")
        text = "".join(
            f"the {draw.choice(names)} number {i % 50} jumps over {draw.choice(names)} and "
            f"{draw.choice(names)} under a {draw.choice(names)}\n"
            for i in range(3000)
        )
        response = self.http.post("/datasets", files={"file": ("text.txt", text)})
        response.raise_for_status()
        return {"source": "upload", "dataset_id": response.json()["id"]}

    def run(self, run_id: str) -> Run:
        """The row of a run, read past the API."""
        with self.db.read() as session:
            return session.get_one(Run, run_id)

    def points(self, run_id: str) -> list[MetricPoint]:
        """All rows of the run's curves, in the order of their writing."""
        with self.db.read() as session:
            query = select(MetricPoint).where(MetricPoint.run_id == run_id)
            return list(session.scalars(query.order_by(MetricPoint.seq, MetricPoint.name)))

    def losses(self, run_id: str, after_attempt: int = 0) -> int:
        """How many rows of its loss the run has, from attempts after this one."""
        query = select(func.count()).where(
            MetricPoint.run_id == run_id,
            MetricPoint.name == "loss",
            MetricPoint.attempt > after_attempt,
        )
        with self.db.read() as session:
            return session.scalar(query) or 0

    def made_again(self, run_id: str) -> list[tuple[int, list[int]]]:
        """Steps of the run that had to be repeated, and by which attempts."""
        made: dict[int, set[int]] = defaultdict(set)
        for point in self.points(run_id):
            if point.name == "loss":
                made[point.step].add(point.attempt)
        return [(step, sorted(by)) for step, by in sorted(made.items()) if len(by) > 1]

    def updates_lost(self, run_id: str) -> int:
        """How many steps of the run had to be repeated."""
        return sum(len(by) - 1 for _, by in self.made_again(run_id))

    def lost_attempts(self, run_id: str) -> list[str]:
        """What the run's log says of attempts that were taken back."""
        with self.db.read() as session:
            query = select(LogLine.message).where(
                LogLine.run_id == run_id, LogLine.message.contains("was lost")
            )
            return list(session.scalars(query))

    def weights_sha256(self, run_id: str) -> str | None:
        """Of the published weights; None if there are none."""
        with self.db.read() as session:
            query = select(Artifact.sha256).where(
                Artifact.run_id == run_id, Artifact.path == "model.safetensors"
            )
            return session.scalars(query).one_or_none()

    def wait_final(self, run_ids: list[str], timeout_s: float = 600) -> list[Run]:
        """The rows of these runs once all have ended."""

        def ended() -> bool:
            return all(self.run(run_id).state in FINAL for run_id in run_ids)

        try:
            wait_for(ended, timeout_s, "the end of all")
        except TimeoutError as error:
            states = {run_id: str(self.run(run_id).state) for run_id in run_ids}
            raise TimeoutError(f"{error}: {states}") from None
        return [self.run(run_id) for run_id in run_ids]

    def wait_points(self, run_id: str, count: int = 1, timeout_s: float = 300) -> None:
        """Until the run has so many rows of its loss."""

        def there() -> bool:
            return self.losses(run_id) >= count

        wait_for(there, timeout_s, f"{count} points of {run_id}: {self.run(run_id).error_message}")


def teacher(corpus: Json, updates: int, seed: int = 1, **changes: Any) -> Json:
    """A teacher small enough to train in a second or two, that saves after every update."""
    config: Json = {
        "kind": "teacher",
        "seed": seed,
        "corpus": corpus,
        "layer_drop": 0.2,
        "model": {
            "source": "scratch",
            "layers": 2,
            "hidden_size": 16,
            "heads": 2,
            "intermediate_size": 32,
            "max_positions": 32,
            "dropout": 0.1,
        },
        "tokenizer": {"source": "wordpiece", "vocab_size": 300},
        "seq_len": 32,
        "schedule": {
            "epochs": 10_000,
            "max_steps": updates,
            "batch_size": 4,
            "accumulation_steps": 2,
        },
        "evaluation": {"max_sequences": 8},
        "reporting": {"log_every_steps": 1, "checkpoint_every_s": 0},
        "precision": "fp32",
    }
    return config | changes


@contextmanager
def installation(
    folder: Path,
    kind: Kind = "sqlite",
    *,
    workers: int = 1,
    device: str = "cpu",
    patient: bool = False,
    **extra: str,
) -> Iterator[Installation]:
    """An installation for the duration of the block; `patient` for its default times.

    `device`: what each worker is given. `extra`: further variables of its processes.
    """
    with ExitStack() as stack:
        stand = Installation(folder, kind, stack, ({} if patient else IMPATIENT) | extra)
        stand.start_api()
        for _ in range(workers):
            stand.start_worker(device)
        yield stand


def to_json(value: object) -> str:
    """One line."""
    return json.dumps(value, ensure_ascii=False)
