"""Valkey flushed, restarted, away, or swallowing what it is sent, while runs are submitted."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import redis

from app.cli.client import Json
from app.runs.states import FINAL, RunState
from faults.figures import Figure, Row, percentile
from faults.installation import Installation, installation, teacher, wait_for
from faults.kills import owner_of
from faults.trial import Trial

ENDLESS = 100_000_000
PICKUP_WITHIN_S = 30.0
ANSWER_WITHIN_S = 10.0


@dataclass
class Seen:
    """What was found of runs that were submitted around a fault."""

    ids: list[str] = field(default_factory=list)
    submit_s: list[float] = field(default_factory=list)
    pickup_s: list[float] = field(default_factory=list)
    lost: int = 0

    def submit(self, stand: Installation, config: Json) -> None:
        start_s = time.monotonic()
        self.ids.append(stand.client.submit_run(config)["id"])
        self.submit_s.append(time.monotonic() - start_s)

    def wait_pickup(self, stand: Installation, since_s: float, run_id: str) -> None:
        """Note when the run is claimed, in seconds from `since_s` on."""
        with suppress(TimeoutError):  # then it is lost, as will be seen
            wait_for(lambda: stand.run(run_id).attempt > 0, 120, "a claim", every_s=0.05)
            self.pickup_s.append(time.monotonic() - since_s)

    def wait_end(self, stand: Installation) -> None:
        """Count those that do not succeed; then reset the count."""
        with suppress(TimeoutError):
            stand.wait_final(self.ids, 180)
        self.lost += sum(stand.run(i).state != RunState.SUCCEEDED for i in self.ids)
        self.ids = []

    def figures(self, stand: Installation, undisturbed: str) -> list[Figure]:
        """Those of this fault; `undisturbed` has been training since before it."""
        run = stand.run(undisturbed)
        return [
            Figure("accepted_but_lost", self.lost),
            Figure("pickup_p99_s", percentile(self.pickup_s, 0.99), PICKUP_WITHIN_S),
            Figure("submit_p99_s", percentile(self.submit_s, 0.99), ANSWER_WITHIN_S),
            Figure("lost_runs", int(run.state in FINAL), reason=run.error_message or ""),
            Figure("false_recoveries", run.attempt - 1),
        ]


def flush(stand: Installation) -> None:
    """Make the broker forget everything."""
    with redis.Redis.from_url(stand.broker.url) as client:
        client.flushall()


def restart(stand: Installation) -> None:
    """Stop the broker, which writes nothing to disk, and restart it."""
    stand.stop_broker()
    stand.start_broker()


def broker(trial: Trial) -> Iterator[Row]:
    """A worker trains all the while; another one takes what is submitted."""
    # No fault here concerns the database, so a busy machine must not look like a dead worker.
    lease = {"HALFLAYER_LEASE_S": "60"}
    with installation(trial.new_folder("broker"), workers=2, patient=trial.long, **lease) as stand:
        corpus = stand.upload_text()
        seldom = {"log_every_steps": 20, "checkpoint_every_s": 5}
        trains = stand.client.submit_run(teacher(corpus, ENDLESS, reporting=seldom))["id"]
        stand.wait_points(trains)
        _let_others_go_first(stand, trains)
        yield _bells_lost(trial, stand, corpus, trains)
        yield _away(trial, stand, corpus, trains, "away", [5] if not trial.long else [300, 20, 20])
        if trial.long:
            yield _away(trial, stand, corpus, trains, "blackhole", [60, 20])


def _let_others_go_first(stand: Installation, run_id: str) -> None:
    """It has minutes to train in; what is measured are the others."""
    worker = owner_of(stand, run_id)
    assert worker is not None
    for trainer in worker.trainers(run_id):
        trainer.nice(19)


def _bells_lost(trial: Trial, stand: Installation, corpus: Json, trains: str) -> Row:
    """Every worker is busy, so that messages wait in the broker; then they are lost."""
    seen = Seen()
    faults: tuple[Callable[[Installation], None], ...] = (flush, restart)
    rounds = trial.times(1, 4)
    for round_ in range(rounds):
        trial.say(f"messages lost: {round_} of {rounds}")
        blocks = stand.client.submit_run(teacher(corpus, ENDLESS))["id"]
        wait_for(lambda i=blocks: stand.run(i).state == RunState.RUNNING, 60, "a busy worker")
        for fault in faults:
            seen.submit(stand, teacher(corpus, 4))
            fault(stand)
        stand.client.cancel(blocks)
        stand.wait_final([blocks])
        free_s = time.monotonic()
        wait_for(lambda: any(stand.run(i).attempt for i in seen.ids), 120, "a claim")
        seen.pickup_s.append(time.monotonic() - free_s)
        seen.wait_end(stand)
    return Row(
        "Valkey flushed, then restarted, with messages waiting in it",
        rounds * len(faults),
        "the run starts some seconds later",
        seen.figures(stand, trains),
    )


def _away(
    trial: Trial, stand: Installation, corpus: Json, trains: str, how: str, spells_s: list[float]
) -> Row:
    seen = Seen()
    for spell_s in spells_s:
        trial.say(f"Valkey {how} for {spell_s:.0f} s")
        known = stand.run(trains).event_seq
        if how == "away":
            stand.stop_broker()
        else:
            stand.broker_proxy.set("blackhole")
        end_s = time.monotonic() + spell_s
        for _ in range(2):
            seen.submit(stand, teacher(corpus, 4))
        time.sleep(max(0.0, end_s - time.monotonic()))
        assert stand.run(trains).event_seq > known, "training did not go on"
        if how == "away":
            stand.start_broker()
        else:
            stand.broker_proxy.set("pass")
        back_s = time.monotonic()
        seen.wait_pickup(stand, back_s, seen.ids[0])
        seen.wait_end(stand)
    lengths = ", ".join(f"{spell_s:.0f}" for spell_s in spells_s)
    state = "down" if how == "away" else "unreachable (what is sent vanishes)"
    return Row(
        f"Valkey {state} for {lengths} s, also at submit",
        len(spells_s),
        "submit is accepted; the run starts when Valkey is back",
        seen.figures(stand, trains),
        {"pickup_max_s": round(max(seen.pickup_s, default=0), 1)},
    )
