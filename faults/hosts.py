"""Hosts that share nothing but Postgres, Valkey and an S3 store: lost, cut off, sent away."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property

import psutil
from s3fs import S3FileSystem
from sqlalchemy import select
from sqlalchemy.engine import make_url

from app.cli.client import Json
from app.runs.models import LogLine
from app.runs.states import RunState
from faults.figures import Figure, Row
from faults.installation import Installation, installation, teacher, wait_for
from faults.kills import Damage, wait_resumed
from faults.proxy import Mode, Proxy
from faults.trial import Trial
from tests.fixtures.orphan_guard import orphan_guard
from tests.fixtures.s3 import FILES, S3Server, running_s3

UPDATES = 120


class Host:
    """A worker with a data folder of its own, which reaches the rest by proxies of its own."""

    def __init__(self, stand: Installation, s3: S3Server, number: int) -> None:
        assert stand.postgres is not None
        self.folder = stand.folder / f"host-{number}"
        self.folder.mkdir()
        self._db = Proxy(stand.postgres.socket)
        self._broker = Proxy(("127.0.0.1", stand.broker.port))
        self.store = Proxy(("127.0.0.1", s3.port))
        database, broker = (
            make_url(stand.environment[name]).set(port=proxy.port)
            for name, proxy in (
                ("HALFLAYER_DATABASE_URL", self._db),
                ("HALFLAYER_BROKER_URL", self._broker),
            )
        )
        self.worker = stand.start_worker(
            HALFLAYER_DATA_DIR=str(self.folder),
            HALFLAYER_DATABASE_URL=database.render_as_string(hide_password=False),
            HALFLAYER_BROKER_URL=broker.render_as_string(hide_password=False),
            **s3.environment(self.store.port),
        )

    def network(self, mode: Mode) -> None:
        """Let through, or cut, all that goes in and out."""
        for proxy in (self._db, self._broker, self.store):
            proxy.set(mode)

    def lose(self) -> None:
        """Everything on the host dies at once, and its disk is lost."""
        self.worker.signal(signal.SIGSTOP)
        with suppress(psutil.Error):
            for child in psutil.Process(self.worker.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
        self.worker.kill()
        self.folder.rename(self.folder.with_suffix(".lost"))

    def leave(self) -> None:
        """SIGTERM, as at a deployment; waits until the worker has left."""
        self.worker.signal(signal.SIGTERM)
        self.worker.process.wait(120)

    def close(self) -> None:
        for proxy in (self._db, self._broker, self.store):
            proxy.close()


@dataclass
class Site:
    """An installation on several hosts."""

    stand: Installation
    s3: S3Server
    hosts: list[Host]
    corpus: Json

    def add_host(self) -> Host:
        """One more host, with an empty disk."""
        host = Host(self.stand, self.s3, len(self.stand.workers))
        self.hosts.append(host)
        return host

    def submit(self, updates: int = UPDATES) -> str:
        """A run like the undisturbed one."""
        run_id: str = self.stand.client.submit_run(teacher(self.corpus, updates))["id"]
        return run_id

    def owner(self, run_id: str) -> Host:
        """The host on which the run's trainer is at work."""

        def find() -> Host | None:
            return next((h for h in self.hosts if h.worker.trainers(run_id)), None)

        found: Host = wait_for(find, 120, f"a trainer of {run_id}")
        return found

    def copies(self) -> list[str]:
        """The keys of all whole copies of checkpoints in the store."""
        return [key for key in self.keys("work/") if key.endswith("/mirror.json")]

    def keys(self, prefix: str) -> list[str]:
        """The store's files, read past all hosts."""
        return [each.removeprefix(f"{FILES}/") for each in self._store.find(f"{FILES}/{prefix}")]

    def flip_bits(self, key: str) -> None:
        """Damage one file of the store."""
        data = bytearray(self._store.cat_file(f"{FILES}/{key}"))
        data[len(data) // 2] ^= 0x10
        self._store.pipe_file(f"{FILES}/{key}", bytes(data))

    @cached_property
    def _store(self) -> S3FileSystem:
        return S3FileSystem(
            endpoint_url=f"http://127.0.0.1:{self.s3.port}",
            key="testing",
            secret="testing",
            use_listings_cache=False,
        )

    def log(self, run_id: str) -> str:
        """What the run's page shows as its log."""
        with self.stand.db.read() as session:
            lines = select(LogLine.message).where(LogLine.run_id == run_id).order_by(LogLine.seq)
            return "\n".join(session.scalars(lines))


@contextmanager
def site(trial: Trial, hosts: int = 2) -> Iterator[Site]:
    """An installation whose hosts have a folder each, for the duration of the block."""
    folder = trial.new_folder("hosts")
    with ExitStack() as stack:
        s3 = stack.enter_context(running_s3(folder))
        stack.enter_context(orphan_guard()).hold(s3.process.pid)
        variables = {"HALFLAYER_STORAGE_URL": s3.url, "HALFLAYER_MIRROR_EVERY_S": "0.5"}
        stand = stack.enter_context(
            installation(folder, "postgres", workers=0, **variables, **s3.environment())
        )
        found = Site(stand, s3, [], stand.upload_text())
        stack.callback(lambda: [host.close() for host in found.hosts])
        for _ in range(hosts):
            found.add_host()
        stand.undisturbed = found.submit()
        stand.wait_final([stand.undisturbed])
        yield found


def hosts(trial: Trial) -> Iterator[Row]:
    """All that can befall a host, one after the other."""
    with site(trial) as place:
        draw = trial.random("hosts")
        yield _lost(place, trial, draw)
        yield _sent_away(place, trial)
        if trial.long:  # tests/worker/test_hosts.py has the like of these without whole hosts
            yield _store_away(place, trial)
            yield _cut_off(place, trial)
            yield _damaged_copy(place)
            place.add_host()  # a worker tidies up when it starts
        yield _nothing_left(place)


def _lost(place: Site, trial: Trial, draw: random.Random) -> Row:
    stand, damage, again, started_over = place.stand, Damage(), 0, 0
    times = trial.times(1, 6)
    for number in range(times):
        trial.say(f"hosts: {number} of {times} lost")
        run_id = place.submit()
        stand.wait_points(run_id)
        time.sleep(draw.uniform(0.0, 1.0))
        if stand.run(run_id).state == RunState.RUNNING:
            host, attempt = place.owner(run_id), stand.run(run_id).attempt
            host.lose()
            place.hosts.remove(host)
            host.close()
            place.add_host()
            damage.resumed_s.append(wait_resumed(stand, run_id, attempt))
        stand.wait_final([run_id])
        damage.compare(stand, run_id, stand.undisturbed)
        again += stand.updates_lost(run_id)
        started_over += "training starts over" in place.log(run_id)
    return Row(
        "a host is lost with its disk, the run goes on on another",
        times,
        "`running` for the lease, `queued`, then it goes on from the copy in the store",
        damage.figures(),
        {"steps_repeated": again, "started_over": started_over},
    )


def _sent_away(place: Site, trial: Trial) -> Row:
    stand, damage, again = place.stand, Damage(), 0
    times = trial.times(1, 4)
    for number in range(times):
        trial.say(f"hosts: {number} of {times} sent away")
        run_id = place.submit()
        stand.wait_points(run_id)
        host = place.owner(run_id)
        place.hosts.remove(host)
        host.leave()
        host.folder.rename(host.folder.with_suffix(".left"))
        host.close()
        place.add_host()
        stand.wait_final([run_id])
        damage.compare(stand, run_id, stand.undisturbed)
        again += stand.updates_lost(run_id)
    return Row(
        "SIGTERM to a worker, whose host is then given back; another host goes on",
        times,
        "`queued`, then it goes on where it was",
        [*damage.figures(), Figure("updates_lost", again)],
    )


def _cut_off(place: Site, trial: Trial) -> Row:
    stand, damage = place.stand, Damage()
    times = trial.times(1, 2)
    for number in range(times):
        trial.say(f"hosts: {number} of {times} cut off")
        run_id = place.submit(UPDATES)
        stand.wait_points(run_id)
        host, attempt = place.owner(run_id), stand.run(run_id).attempt
        host.network("cut")
        wait_resumed(stand, run_id, attempt)
        host.network("pass")
        stand.wait_final([run_id])
        wait_for(lambda host=host, i=run_id: not host.worker.trainers(i), 120, "the stale trainer")
        damage.compare(stand, run_id, stand.undisturbed)
    return Row(
        "a host is cut off from database, broker and store while it trains; later it is back",
        times,
        "as if it were lost; what it did meanwhile counts for nothing",
        damage.figures(),
    )


def _store_away(place: Site, trial: Trial) -> Row:
    stand, damage = place.stand, Damage()
    run_id = place.submit()
    stand.wait_points(run_id)
    for host in place.hosts:
        host.store.set("cut")
    trial.say("hosts: the store is away")
    wait_for(lambda: _last_step(stand, run_id) == UPDATES, 300, "the last update")
    time.sleep(trial.times(2, 300))
    for host in place.hosts:
        host.store.set("pass")
    stand.wait_final([run_id])
    damage.compare(stand, run_id, stand.undisturbed)
    attempts = stand.run(run_id).attempt
    return Row(
        "the store is away while a run trains and when it ends",
        1,
        "it trains on, and its result waits for the store",
        [*damage.figures(), Figure("attempts_lost", attempts - 1)],
    )


def _last_step(stand: Installation, run_id: str) -> int:
    return max((point.step for point in stand.points(run_id) if point.name == "loss"), default=0)


def _damaged_copy(place: Site) -> Row:
    """The newest copy is damaged: the one before is used, and the log says so."""
    stand, damage = place.stand, Damage()
    run_id = place.submit()

    def both() -> list[str]:
        return [key for key in place.copies() if f"/{run_id}/" in key]

    wait_for(lambda: len(both()) >= 2, 120, "two copies")
    host, attempt = place.owner(run_id), stand.run(run_id).attempt
    host.lose()
    place.hosts.remove(host)
    host.close()
    newest = max(both(), key=lambda key: key.split("/")[3])
    place.flip_bits(newest.replace("mirror.json", f"checkpoints/{newest.split('/')[3]}/state.json"))
    place.add_host()
    wait_resumed(stand, run_id, attempt)
    stand.wait_final([run_id])
    damage.compare(stand, run_id, stand.undisturbed)
    noticed = "is not whole" in place.log(run_id)
    return Row(
        "the newest copy of a checkpoint is damaged in the store",
        1,
        "the one before is used, and the log says so",
        [*damage.figures(), Figure("undetected", int(not noticed))],
    )


def _nothing_left(place: Site) -> Row:
    """All runs have ended, and nothing of theirs is to be left but the results."""
    with suppress(TimeoutError):
        wait_for(lambda: not place.keys("work/"), 60, "the copies to go")
    left = len(place.keys("work/"))
    return Row(
        "after all this, what ended runs left behind",
        1,
        "nothing",
        [Figure("left_in_store", left)],
    )
