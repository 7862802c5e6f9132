"""Postgres restarted or away while runs train; many processes that write into one SQLite."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from app.db import Database
from app.migrations import upgrade
from app.runs.states import FINAL
from faults.figures import Figure, Row, percentile
from faults.installation import ROOT, Installation, installation, teacher, wait_for
from faults.kills import Damage
from faults.trial import Trial
from faults.writer import Wrote, count_rows

WRITERS = 8
UPDATES = 500
TOGETHER = 2
LEASE_S = 6.0
"""Less than the time that Postgres is away: no worker may be called dead for want of a database."""
READY_WITHIN_S = 30.0


@dataclass
class Answers:
    """What the API says while its database is away."""

    count: int = 0
    wrong: list[str] = field(default_factory=list)
    """Neither a result nor 503 with problem+json and Retry-After."""
    answer_s: list[float] = field(default_factory=list)

    def ask(self, stand: Installation, run_id: str, config: object) -> None:
        """One request of each kind."""
        for method, path, body in (
            ("GET", "/runs", None),
            ("GET", f"/runs/{run_id}", None),
            ("GET", f"/runs/{run_id}/metrics", None),
            ("GET", "/workers", None),
            ("POST", f"/runs/{run_id}/cancel", None),
            ("POST", "/runs", {"config": config}),
        ):
            start_s = time.monotonic()
            try:
                response = stand.http.request(method, path, json=body)
            except httpx.HTTPError as error:
                self.wrong.append(f"{method} {path}: {error!r}")
                continue
            self.answer_s.append(time.monotonic() - start_s)
            self.count += 1
            if not _is_unavailable(response):
                self.wrong.append(f"{method} {path}: {response.status_code} {response.text[:200]}")


def _is_unavailable(response: httpx.Response) -> bool:
    return (
        response.status_code == 503
        and response.headers["content-type"] == "application/problem+json"
        and int(response.headers.get("retry-after", 0)) > 0
    )


def _updates_made(stand: Installation, run_id: str) -> int:
    """Updates of which the trainer has spoken, whether anybody has heard it or not."""
    folder = stand.data_dir / "work" / run_id
    return sum(path.read_bytes().count(b'"metrics"') for path in folder.glob("*/events.jsonl"))


def postgres(trial: Trial) -> Iterator[Row]:
    """Stopped without a checkpoint, and restarted at once or much later."""
    with installation(
        trial.new_folder("postgres"), "postgres", workers=TOGETHER, HALFLAYER_LEASE_S=str(LEASE_S)
    ) as stand:
        corpus = stand.upload_text()
        config = teacher(corpus, UPDATES)
        stand.undisturbed = stand.client.submit_run(config)["id"]
        stand.wait_final([stand.undisturbed])
        yield _postgres_away(trial, stand, config, [0.0] * trial.times(1, 20))
        yield _postgres_away(
            trial, stand, config, [LEASE_S + 2] if not trial.long else [300.0, 30.0]
        )


def _postgres_away(trial: Trial, stand: Installation, config: object, spells_s: list[float]) -> Row:
    damage, answers = Damage(), Answers()
    draw = trial.random("postgres", len(spells_s))
    updates_away = updates_lost = false_recoveries = 0
    ready_s: list[float] = []
    ids: list[str] = []
    for spell_s in spells_s:
        trial.say(f"Postgres away for {spell_s:.0f} s")
        if all(stand.run(i).state in FINAL for i in ids):
            ids += [stand.client.submit_run(config)["id"] for _ in range(TOGETHER)]
            for run_id in ids[-TOGETHER:]:
                stand.wait_points(run_id)
        time.sleep(draw.uniform(0, 0.3))
        made = sum(_updates_made(stand, i) for i in ids)
        stand.stop_postgres()
        end_s = time.monotonic() + spell_s
        while time.monotonic() < end_s:
            answers.ask(stand, ids[-1], config)
            time.sleep(0.5)
        updates_away += sum(_updates_made(stand, i) for i in ids) - made
        stand.start_postgres()
        back_s = time.monotonic()
        wait_for(stand.is_ready, 2 * READY_WITHIN_S, "the API to be ready again", every_s=0.05)
        ready_s.append(time.monotonic() - back_s)
    for run in stand.wait_final(ids):
        damage.compare(stand, run.id, stand.undisturbed)
        updates_lost += stand.updates_lost(run.id)
        false_recoveries += run.attempt - 1
    away = spells_s[0] > 0
    figures = [
        *damage.figures(),
        Figure("updates_lost", updates_lost),
        Figure("false_recoveries", false_recoveries),
        Figure("ready_after_return_s", percentile(ready_s, 0.99), READY_WITHIN_S),
    ]
    facts: dict[str, object] = {"runs": damage.runs}
    if away:
        assert answers.count, "no request was made"
        assert updates_away, "no step was trained"
        figures.append(
            Figure("wrong_answers", len(answers.wrong), reason="; ".join(answers.wrong[:3]))
        )
        facts |= {
            "answers": answers.count,
            "answer_p99_s": round(percentile(answers.answer_s, 0.99), 2),
            "updates_while_away": updates_away,
        }
    lengths = ", ".join(f"{spell_s:.0f}" for spell_s in spells_s)
    return Row(
        f"Postgres away for {lengths} s" if away else "Postgres restarted in immediate mode",
        len(spells_s),
        "503 with Retry-After; the training goes on, and its curve catches up",
        figures,
        facts,
    )


def sqlite_writers(trial: Trial) -> Iterator[Row]:
    """Eight processes submit, claim, record and end runs, all in one SQLite file."""
    url = f"sqlite:///{trial.new_folder('writers') / 'halflayer.db'}"
    upgrade(url)
    rounds = trial.times(10, 100)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "faults.writer", url, f"{trial.seed}/{n}", str(rounds)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(WRITERS)
    ]
    try:
        said = [process.communicate(timeout=60 + 3 * rounds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "a writer fell over"
    wrote = [Wrote(**json.loads(line)) for line in said]
    claims = [claim for each in wrote for claim in each.claims]
    elapsed_s = [each_s for each in wrote for each_s in each.elapsed_s]
    db = Database(url)
    runs, points = count_rows(db)
    db.close()
    yield Row(
        f"{WRITERS} processes write into one SQLite",
        sum(len(each.elapsed_s) for each in wrote),
        "nothing; a write waits for those before it",
        [
            Figure("database_locked", sum(each.locked for each in wrote)),
            Figure("lost_runs", WRITERS * rounds - runs),
            Figure("lost_points", max(0, sum(each.points for each in wrote) - points)),
            Figure("doubled_points", max(0, points - sum(each.points for each in wrote))),
            Figure("double_executions", len(claims) - len(set(claims))),
        ],
        {
            "transaction_p99_ms": round(1000 * percentile(elapsed_s, 0.99)),
            "transaction_max_ms": round(1000 * max(elapsed_s)),
        },
    )
