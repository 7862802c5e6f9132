"""Every route against every kind of credential, as the table in docs/rest.md has it."""

import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
from sqlalchemy import delete, select

from app.auth.dependencies import COOKIE
from app.auth.models import ApiToken, Scope, TokenKind
from app.auth.service import SCOPES, create_token, revoke
from app.datasets.models import Dataset
from app.db import new_id
from app.main import API_ROUTERS
from app.monitoring import health
from app.runs.models import Run
from app.runs.states import RunState
from faults.figures import Figure, Row
from faults.installation import ROOT, Installation, installation, wait_for
from faults.trial import Trial
from kdcore.presets import preset

DOCUMENT = ROOT / "docs" / "rest.md"
WHO = ("no token", "wrong", "revoked", "read", "submit", "admin", "other site")
ANSWERS = ("yes", "401", "403")
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
ENDS_WITHIN_S = 5.0

Route = tuple[str, str]
"""Method and path, as in the OpenAPI document."""
Headers = dict[str, str]


def documented() -> dict[Route, dict[str, str]]:
    """What docs/rest.md promises: for each route, what each kind of caller is answered."""
    found: dict[Route, dict[str, str]] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        route = re.fullmatch(r"`([A-Z]+) (/\S*)`", cells[0])
        if route and len(cells) == 1 + len(WHO):
            assert set(cells[1:]) <= set(ANSWERS), line
            found[route[1], route[2]] = dict(zip(WHO, cells[1:], strict=True))
    return found


def served(stand: Installation) -> set[Route]:
    """Every route of the application, whether its own document lists it or not."""
    # The document's own route is the framework's, and stands in no document.
    routes = {("GET", "/api/v1/openapi.json")}
    for path, methods in _document(stand)["paths"].items():
        routes |= {(method.upper(), path) for method in methods}
    for route in (each for router in (*API_ROUTERS, health.router) for each in router.routes):
        if not getattr(route, "include_in_schema", False):
            routes.add(("hidden", str(getattr(route, "path", route))))
    return routes


def _document(stand: Installation) -> Any:
    return httpx.get(f"{stand.url}/api/v1/openapi.json", trust_env=False).json()


@dataclass
class World:
    """Things to reach for, with a mark in their names that no stranger may see."""

    stand: Installation
    mark: str = field(default_factory=lambda: f"secret{secrets.token_hex(8)}")
    ids: dict[str, str] = field(default_factory=dict)

    def refill(self) -> None:
        """A new run that has ended, a dataset and a token."""
        config = preset("small-teacher").config.model_dump(mode="json")
        run = Run(
            id=new_id(), name=self.mark, kind="teacher", state=RunState.SUCCEEDED, config=config
        )
        dataset = Dataset(
            id=new_id(), name=self.mark, kind="text", format="txt", size_bytes=1, sha256="0" * 64
        )
        with self.stand.db.write() as session:
            session.add_all([run, dataset])
            token_id = create_token(session, "api", self.mark, "read")[0].id
        self.ids = {"run_id": run.id, "dataset_id": dataset.id, "token_id": token_id}

    def secret(self, kind: TokenKind, scope: Scope = "admin", days: float | None = None) -> str:
        """A new credential."""
        expires = None if days is None else timedelta(days=days)
        with self.stand.db.write() as session:
            return create_token(session, kind, self.mark, scope, expires)[1]

    def revoked(self, kind: TokenKind) -> str:
        """A credential that was good once."""
        with self.stand.db.write() as session:
            row, secret = create_token(session, kind, self.mark, "admin")
            revoke(session, row.id)
        return secret

    def rows(self) -> set[tuple[Any, ...]]:
        """All that a request could have changed."""
        columns = (
            (Run.id, Run.name, Run.state),
            (Dataset.id, Dataset.name, Dataset.sha256),
            (ApiToken.id, ApiToken.name, ApiToken.revoked_at),
        )
        with self.stand.db.read() as session:
            return {tuple(row) for each in columns for row in session.execute(select(*each))}

    def clear(self) -> None:
        """Remove all of it."""
        with self.stand.db.write() as session:
            for table in (Run, Dataset, ApiToken):
                session.execute(delete(table).where(table.name == self.mark))


def callers(world: World, who: str) -> Iterator[Headers]:
    """The headers of every caller of this kind."""

    def bearer(secret: str) -> Headers:
        return {"Authorization": f"Bearer {secret}".strip()}

    def cookie(secret: str, **more: str) -> Headers:
        return {"Cookie": f"{COOKIE}={secret}", **more}

    good = world.stand.token
    if who == "no token":
        yield {}
    elif who == "wrong":
        wrong = [good[:-1] + ("a" if good[-1] != "a" else "b"), good.upper(), "", "hl_", "\xff"]
        wrong += [world.secret("login"), world.secret("session"), world.secret("api", days=-1)]
        yield from map(bearer, wrong)
        yield {"Authorization": f"Basic {good}"}
        yield {"Authorization": good}
        yield from (cookie(each, **SAME_ORIGIN) for each in (good, world.secret("login"), "x"))
    elif who == "revoked":
        yield bearer(world.revoked("api"))
        yield cookie(world.revoked("session"), **SAME_ORIGIN)
    elif who == "other site":
        for headers in (
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
        ):
            yield cookie(world.secret("session"), **headers)
    else:
        scope = next(each for each in SCOPES if each == who)
        yield bearer(world.secret("api", scope))
        yield cookie(world.secret("session", scope), **SAME_ORIGIN)


@dataclass
class Asker:
    """Sends requests that would do something if they were let through."""

    stand: Installation
    world: World
    examples: dict[Route, Any]
    http: httpx.Client
    login: str = ""
    """Opens a session once."""

    def ask(self, route: Route, headers: Headers) -> httpx.Response:
        method, path = route
        for name, value in {**self.world.ids, "path": "config.json", "kind": "teacher"}.items():
            path = path.replace(f"{{{name}}}", value)
        body: dict[str, Any] = {}
        if route in self.examples:
            body = {"json": self.examples[route]}
        elif path.endswith("/datasets") and method == "POST":
            body = {"files": {"file": ("a.txt", b"one\ntwo\n")}}
        elif path.endswith("/session") and method == "POST":
            body = {"json": {"token": self.login}}
        # latin-1, for a header may hold any byte
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return self.http.request(method, path, headers=raw, **body)


def _examples(stand: Installation) -> dict[Route, Any]:
    """The request bodies that the OpenAPI document shows, less those that name what is not here."""
    found: dict[Route, Any] = {}
    for path, methods in _document(stand)["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content and not path.endswith("/session"):
                found[method.upper(), path] = content["application/json"]["example"]
    return found


def access(trial: Trial) -> Iterator[Row]:
    """The whole table, and streams whose credential is taken back."""
    with installation(trial.new_folder("access"), workers=0) as stand:
        yield _table(trial, stand)
        yield _revoked_streams(trial, stand)


def _table(trial: Trial, stand: Installation) -> Row:
    table, routes, world = documented(), served(stand), World(stand)
    requests = leaks = wrongly_refused = server_errors = 0
    first: list[str] = []
    with httpx.Client(base_url=stand.url, timeout=60, trust_env=False) as http:
        asker = Asker(stand, world, _examples(stand), http)
        for number, route in enumerate(sorted(table.keys() & routes)):
            trial.say(f"access: {number} of {len(table)} routes")
            for who in WHO:
                expected = table[route][who]
                world.refill()
                for headers in list(callers(world, who)):
                    asker.login = world.secret("login")
                    before = world.rows()
                    http.cookies.clear()
                    answer = asker.ask(route, headers)
                    requests += 1
                    server_errors += answer.status_code >= 500
                    if expected == "yes":
                        wrong = answer.status_code in (401, 403)
                        wrongly_refused += wrong
                    else:
                        wrong = (
                            str(answer.status_code) != expected
                            or world.mark in answer.text + str(answer.headers)
                            or world.rows() != before
                        )
                        leaks += wrong
                    if wrong or answer.status_code >= 500:
                        first.append(f"{' '.join(route)} by {who}: {answer.status_code}")
            world.clear()
    unlisted = sorted(map(" ".join, routes ^ table.keys()))
    facts: dict[str, Any] = {"routes": len(table)}
    if first or unlisted:
        facts["first"] = "; ".join([*first[:5], *unlisted[:5]])
    return Row(
        "every route x no token, wrong, revoked, read, submit, admin, another site's page",
        requests,
        "401 or 403 with a message, as in docs/rest.md",
        [
            Figure("leaks", leaks),
            Figure("wrongly_refused", wrongly_refused),
            Figure("undocumented_routes", len(unlisted)),
            Figure("server_errors", server_errors),
        ],
        facts,
    )


class Listener:
    """A client that streams a run until the server ends it."""

    def __init__(self, stand: Installation, run_id: str, headers: Headers) -> None:
        self._url = f"{stand.url}/api/v1/runs/{run_id}/events"
        self._headers = headers
        self.events = ""
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with (
            suppress(httpx.HTTPError),
            httpx.stream(
                "GET", self._url, headers=self._headers, timeout=60, trust_env=False
            ) as response,
        ):
            for text in response.iter_text():
                self.events += text
        self.ended.set()


def _revoked_streams(trial: Trial, stand: Installation) -> Row:
    config = preset("small-teacher").config.model_dump(mode="json")
    run = Run(id=new_id(), name="x", kind="teacher", state=RunState.QUEUED, config=config)
    with stand.db.write() as session:
        session.add(run)
    world = World(stand)
    bystander = Listener(stand, run.id, {"Authorization": f"Bearer {stand.token}"})
    took_s: list[float] = []
    for _ in range(trial.times(1, 2)):
        for how in ("revoked", "signed out", "expired"):
            trial.say(f"access: stream {how}")
            kind: TokenKind = "session" if how == "signed out" else "api"
            days = 3 / 86400 if how == "expired" else None
            started_s = time.monotonic()
            secret = world.secret(kind, "read", days)
            cookie = {"Cookie": f"{COOKIE}={secret}", **SAME_ORIGIN}
            bearer = {"Authorization": f"Bearer {secret}"}
            listener = Listener(stand, run.id, cookie if kind == "session" else bearer)
            wait_for(lambda each=listener: each.events, 30, "the stream's first event")
            if how == "revoked":
                with stand.db.read() as session:
                    newest = select(ApiToken.id).where(ApiToken.name == world.mark)
                    token_id = session.scalars(newest.order_by(ApiToken.created_at.desc())).first()
                stand.http.delete(f"/tokens/{token_id}").raise_for_status()
            elif how == "signed out":
                httpx.delete(f"{stand.url}/api/v1/session", headers=cookie).raise_for_status()
            over_s = started_s + 3 if how == "expired" else time.monotonic()
            assert listener.ended.wait(60), f"the stream outlived its credential: {how}"
            took_s.append(time.monotonic() - over_s)
    cut = bystander.ended.is_set()
    with stand.db.write() as session:
        session.delete(session.get_one(Run, run.id))
    wait_for(bystander.ended.is_set, 30, "the end of the other stream")
    return Row(
        "a token revoked, expired or signed out while its holder streams a run",
        len(took_s),
        "the stream ends; the page asks to sign in again",
        [Figure("revoked_stream_s", max(took_s), ENDS_WITHIN_S), Figure("cut_streams", cut)],
    )
