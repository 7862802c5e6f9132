"""A real application over a real database, and people with tokens who talk to it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.auth.models import Scope, TokenKind
from app.auth.service import create_token
from app.context import Context
from app.db import new_id
from app.main import create_app
from app.runs.models import Run
from app.runs.states import RunState
from app.settings import Settings
from kdcore.config import TeacherConfig

NOBODY_LISTENS = "redis://127.0.0.1:1/0"


@dataclass
class Api:
    """One application, and clients with different credentials."""

    app: FastAPI
    client: TestClient
    _tokens: dict[str, str] = field(default_factory=dict)

    @property
    def context(self) -> Context:
        context: Context = self.app.state.context
        return context

    def token(
        self,
        scope: Scope = "admin",
        kind: TokenKind = "api",
        expires: timedelta | None = None,
    ) -> str:
        """A new credential's secret."""
        with self.context.db.write() as session:
            return create_token(session, kind, "test", scope, expires)[1]

    def headers(self, scope: Scope = "admin") -> dict[str, str]:
        """The headers of a tool with this scope."""
        secret = self._tokens.setdefault(scope, self.token(scope))
        return {"Authorization": f"Bearer {secret}"}

    def request(self, method: str, path: str, scope: Scope = "admin", **rest: Any) -> Any:
        """A request to the versioned API with a token of this scope."""
        headers = self.headers(scope) | rest.pop("headers", {})
        return self.client.request(method, f"/api/v1{path}", headers=headers, **rest)

    def get(self, path: str, **rest: Any) -> Any:
        return self.request("GET", path, **rest)

    def post(self, path: str, json: Any = None, **rest: Any) -> Any:
        return self.request("POST", path, json=json, **rest)

    def add_run(self, state: RunState = RunState.QUEUED, **values: Any) -> str:
        """A run's row, written directly; returns its id."""
        run = Run(
            **{
                "id": new_id(),
                "name": "a run",
                "kind": "teacher",
                "state": state,
                "config": TeacherConfig().model_dump(mode="json"),
            }
            | values
        )
        with self.context.db.write() as session:
            session.add(run)
        return run.id

    def add(self, *rows: Any) -> None:
        """Rows, written directly."""
        with self.context.db.write() as session:
            session.add_all(rows)


def serve(settings: Settings) -> Iterator[Api]:
    """The application with its lifespan, as long as the caller needs it."""
    app = create_app(settings)
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield Api(app, client)


@pytest.fixture
def sqlite_settings(sqlite_url: str, tmp_path: Path) -> Settings:
    """An installation on SQLite whose broker is away; for what no database can change."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    return Settings(data_dir=data_dir, database_url=sqlite_url, broker_url=NOBODY_LISTENS)


@pytest.fixture
def api(sqlite_settings: Settings) -> Iterator[Api]:
    """The application on SQLite, without a broker."""
    yield from serve(sqlite_settings)


@pytest.fixture
def api_everywhere(settings: Settings) -> Iterator[Api]:
    """The application with a real broker, on each kind of database in turn."""
    yield from serve(settings)


@pytest.fixture
def make_api(sqlite_settings: Settings) -> Iterator[Callable[..., Api]]:
    """Makes applications with some settings changed."""
    running: list[Iterator[Api]] = []

    def make(**changes: Any) -> Api:
        iterator = serve(sqlite_settings.model_copy(update=changes))
        running.append(iterator)
        return next(iterator)

    yield make
    for iterator in running:
        for _ in iterator:
            pass
