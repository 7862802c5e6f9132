"""Many clients at once: requests that are never finished, and more uploads than can be checked."""

import json
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psutil
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from app.auth.models import Scope
from app.auth.service import create_token
from app.db import new_id
from app.runs.models import Run
from app.runs.states import RunState
from faults.figures import Figure, Row, percentile
from faults.installation import ROOT, Installation, installation
from faults.streams import OTHERS_WITHIN_S, STUCK_S, Visitor
from faults.trial import Trial
from kdcore.presets import preset

RSS_MIB = 400.0
LOG_KIB = 1024.0
ANNOUNCED_BYTES, SENT_BYTES = 2_000_000, 1_990_000
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANSWERED_S = 120.0


class Siege:
    """Others who ask for pages while `flood` goes on, and what the API needs meanwhile."""

    def __init__(self, trial: Trial, stand: Installation) -> None:
        self._trial, self._stand = trial, stand
        self._run_id = _some_run(stand)
        self._log_bytes = len(stand.api.log_text())
        self._begun_s = time.monotonic()
        self.answers: Counter[str] = Counter()
        self.no_retry_after = 0
        self.took_s: list[float] = []
        self.failed = 0
        self.rss_bytes = 0

    def flood(self, processes: int = 1, **options: Any) -> None:
        """Carry out a flood, shared by some processes, from its begin to its end."""
        options = {
            "port": self._stand.port,
            "fill_bytes": 0,
            "within_s": 0,
            "again_s": None,
        } | options
        options["connections"] //= processes
        api = psutil.Process(self._stand.api.process.pid)
        over = threading.Event()

        def measure() -> None:
            while not over.wait(0.05):
                self.rss_bytes = max(self.rss_bytes, api.memory_info().rss)

        def connect_again() -> None:
            while not over.wait(0.5):  # the visitor keeps its connection
                start_s = time.monotonic()
                self.failed += not self._stand.is_ready()
                self.took_s.append(time.monotonic() - start_s)

        with ExitStack() as stack:
            for others in (measure, connect_again):
                thread = threading.Thread(target=others)
                thread.start()
                stack.callback(thread.join)
            stack.callback(over.set)
            visitor = stack.enter_context(Visitor(self._stand, self._run_id))
            floods = [
                subprocess.Popen(
                    [sys.executable, "-m", "faults.flood"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=ROOT,
                )
                for _ in range(processes)
            ]
            for each in floods:
                stack.callback(each.kill)
                assert each.stdin is not None
                each.stdin.write(json.dumps(options))
                each.stdin.close()
                each.stdin = None
            for each in floods:
                self.answers.update(json.loads(each.communicate()[0]))
            self.no_retry_after += self.answers.pop("no_retry_after")
        self.took_s += visitor.took_s
        self.failed += visitor.failed

    def figures(self) -> list[Figure]:
        """What others felt, and what it cost."""
        minutes = max(1.0, (time.monotonic() - self._begun_s) / 60)
        log_bytes = len(self._stand.api.log_text()) - self._log_bytes
        at_most_s = OTHERS_WITHIN_S if self._trial.long else STUCK_S
        return [
            Figure("other_requests_failed", self.failed),
            Figure("other_requests_p99_s", percentile(self.took_s, 0.99), at_most_s),
            Figure("api_mib", self.rss_bytes / 1024**2, RSS_MIB),
            Figure("log_a_minute_kib", log_bytes / minutes / 1024, LOG_KIB),
            Figure("tracebacks", self._stand.api.log_text().count("Traceback")),
        ]

    def facts(self) -> dict[str, Any]:
        """How often others asked, and what the flood was answered."""
        found = sorted((+self.answers).items())  # without those that none was answered
        answers = ", ".join(f"{count} x {status}" for status, count in found)
        return {
            "other_requests": len(self.took_s),
            "other_requests_median_s": round(percentile(self.took_s, 0.5), 3),
            "answers": answers,
        }


def _some_run(stand: Installation) -> str:
    config = preset("small-teacher").config.model_dump(mode="json")
    run = Run(id=new_id(), name="x", kind="teacher", state=RunState.SUCCEEDED, config=config)
    with stand.db.write() as session:
        session.add(run)
    return run.id


def _token(stand: Installation, scope: Scope) -> str:
    with stand.db.write() as session:
        return create_token(session, "api", "flood", scope)[1]


def held_requests(trial: Trial) -> Iterator[Row]:
    """Bodies that are announced and nearly sent, without a token and with one."""
    connections = 600
    with installation(trial.new_folder("held"), workers=0) as stand:
        head = (
            "POST /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {ANNOUNCED_BYTES}\r\n"
        )
        tokens = {"no token": "", "a token": f"Authorization: Bearer {_token(stand, 'submit')}\r\n"}
        for who, line in tokens.items():
            trial.say(f"{connections} requests are held with {who}")
            siege = Siege(trial, stand)
            siege.flood(
                connections=connections,
                head=f"{head}{line}\r\n",
                fill_bytes=SENT_BYTES,
                within_s=4,
                again_s=5,
                for_s=trial.times(7, 60),
            )
            taken = sum(count for status, count in siege.answers.items() if status[0] == "2")
            yield Row(
                f"{connections} connections that send most of a body and wait, with {who}",
                siege.answers.total(),
                "401" if not line else "408, 503 with Retry-After",
                [
                    Figure("bodies_taken", taken),
                    Figure("refused_without_retry_after", siege.no_retry_after),
                    *siege.figures(),
                ],
                siege.facts(),
            )


def half_sent(trial: Trial) -> Iterator[Row]:
    """More half-sent requests than there are open files; the long form also at a higher limit."""
    for files, connections, within_s in ((1024, 1100, 4), (20_000, 20_200, 20))[
        : trial.times(1, 2)
    ]:
        with installation(trial.new_folder("half-sent"), workers=0) as stand:
            stand.api.restart()
            resource.prlimit(stand.api.process.pid, resource.RLIMIT_NOFILE, (files, files))
            stand.wait_ready()
            trial.say(f"{connections} requests are half sent")
            siege = Siege(trial, stand)
            siege.flood(
                processes=2,
                connections=connections,
                head="GET /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\n",
                within_s=within_s,
                again_s=1 + within_s,
                for_s=trial.times(9, 60),
            )
            yield Row(
                f"{connections:,} connections that send half a head, at {files:,} open files",
                siege.answers.total(),
                "those that wait longest are closed, at the latest after 10 s",
                siege.figures(),
                siege.facts(),
            )


def upload_crowd(trial: Trial) -> Iterator[Row]:
    """Many small uploads at once, each of which has to be checked in a process of its own."""
    uploads = 100
    tokenizer = Tokenizer(WordLevel(dict(zip(SPECIAL, range(5), strict=True)), unk_token="[UNK]"))
    form = (
        '--b\r\nContent-Disposition: form-data; name="kind"\r\n\r\ntokenizer\r\n--b\r\n'
        'Content-Disposition: form-data; name="file"; filename="tokenizer.json"\r\n\r\n'
        f"{tokenizer.to_str()}\r\n--b--\r\n"
    )
    # Each check takes a second or more of a processor.
    at_a_time = str(trial.times(20, 40))
    folder = trial.new_folder("upload-crowd")
    with installation(folder, workers=0, HALFLAYER_MAX_UPLOADS=at_a_time) as stand:
        trial.say(f"{uploads} uploads at once")
        siege = Siege(trial, stand)
        for _ in range(trial.times(1, 5)):
            siege.flood(
                connections=uploads,
                head="POST /api/v1/datasets HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {_token(stand, 'submit')}\r\n"
                "Content-Type: multipart/form-data; boundary=b\r\n"
                f"Content-Length: {len(form.encode())}\r\n\r\n{form}",
                for_s=ANSWERED_S,
            )
        answered = siege.answers["201"] + siege.answers["503"]
        yield Row(
            f"{uploads} uploads of a tokenizer at once",
            siege.answers.total(),
            "201, or 503 with Retry-After",
            [
                Figure("uploads_not_answered", uploads * trial.times(1, 5) - answered),
                Figure("refused_without_retry_after", siege.no_retry_after),
                *siege.figures(),
            ],
            siege.facts(),
        )
