"""Runs Halflayer on one machine: broker, API and a worker as child processes."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from filelock import FileLock, Timeout

from app.auth.service import LINK_NAME, create_token
from app.db import Database
from app.local.embedded_broker import EmbeddedBroker
from app.local.processes import (
    Child,
    ChildFailed,
    Children,
    end_leftovers,
    python_module,
    shorten,
)
from app.local.state import LocalServer, ensure_token, find_server, note_server, server_file
from app.migrations import upgrade
from app.private_files import keep_private
from app.settings import Settings

START_TIMEOUT_S = 90.0
LINK_LIFETIME = timedelta(days=1)
PORTS_TO_TRY = 50


class StackError(Exception):
    """The stack cannot start; the message says how to fix it."""


@dataclass(frozen=True)
class Stack:
    """A running stack; call `check` about every second."""

    settings: Settings
    url: str
    """URL of the API on this machine."""
    token: str
    """API token of the command line on this machine."""
    children: Children

    def check(self) -> None:
        """Restart exited processes."""
        self.children.check()

    @property
    def public_url(self) -> str:
        """URL of the API for browsers."""
        return self.settings.public_url or self.url

    def sign_in_link(self) -> str:
        """A one-time sign-in link."""
        database = Database(self.settings.resolved_database_url)
        try:
            with database.write() as session:
                _, secret = create_token(session, "login", LINK_NAME, "admin", LINK_LIFETIME)
        finally:
            database.close()
        return f"{self.public_url}/login#token={secret}"


@contextmanager
def running_stack(settings: Settings, say: Callable[[str], None]) -> Iterator[Stack]:
    """Start everything, wait until it is ready, and stop it at the end of the block.

    `say` is called with a message for every restart; logs/up.log has these too, and why a start
    failed. Raises StackError.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    keep_private(settings)
    log_file, record = settings.data_dir / "logs" / "up.log", settings.data_dir / "children.json"

    def note(message: str) -> None:
        # The disk may be full.
        with suppress(OSError):
            log_file.parent.mkdir(exist_ok=True)
            shorten(log_file)
            with open(log_file, "a", encoding="utf-8") as log:
                log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ} {message}\n")

    def tell(message: str) -> None:
        note(message)
        say(message)

    with only_one(settings.data_dir):
        try:
            with _started(settings, record, tell) as stack:
                yield stack
        except StackError as error:
            note(str(error))
            raise


@contextmanager
def _started(settings: Settings, record: Path, tell: Callable[[str], None]) -> Iterator[Stack]:
    end_leftovers(record, tell)
    settings = settings.model_copy(update={"port": _choose_port(settings)})
    database = Database(settings.resolved_database_url)
    try:
        upgrade(settings.resolved_database_url)
        token = ensure_token(settings, database)
    finally:
        database.close()
    children = Children(record, tell)
    try:
        url = _start_children(settings, children)
        stack = Stack(settings, url, token, children)
        _wait_until_ready(stack)
        note_server(settings.data_dir, LocalServer(url=url, pid=os.getpid()))
        yield stack
    finally:
        server_file(settings.data_dir).unlink(missing_ok=True)
        children.stop()


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of API and workers: explicit settings and absolute paths."""
    data_dir = settings.data_dir.resolve()
    changes = {
        "HALFLAYER_DATA_DIR": str(data_dir),
        "HALFLAYER_DATABASE_URL": settings.resolved_database_url,
        "HALFLAYER_BROKER_URL": settings.broker_url,
        "HALFLAYER_STORAGE_URL": settings.resolved_storage_url,
        "HALFLAYER_HOST": settings.host,
        "HALFLAYER_PORT": str(settings.port),
        # Otherwise log lines would appear minutes later.
        "PYTHONUNBUFFERED": "1",
        # Hub downloads belong to the installation; the home folder may be read-only.
        "HF_HOME": os.environ.get("HF_HOME", str(data_dir / "cache" / "huggingface")),
    }
    return {**os.environ, **changes}


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Lock the data folder during the block; raises StackError if another process serves it."""
    lock = FileLock(data_dir / "up.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        server = find_server(data_dir)
        where = f" at {server.url} (process {server.pid})" if server else ""
        raise StackError(
            f"Halflayer is already running for {data_dir.resolve()}{where}; "
            "stop it, or set another folder in HALFLAYER_DATA_DIR"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _choose_port(settings: Settings) -> int:
    """The next free port; an explicitly configured one must be free."""
    asked = "port" in settings.model_fields_set
    candidates = [settings.port] if asked else range(settings.port, settings.port + PORTS_TO_TRY)
    for port in candidates:
        with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
            # As the server does: a port that was just released is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except PermissionError:
                raise StackError(f"no permission to open port {port}") from None
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    if asked:
        raise StackError(f"port {settings.port} is taken; choose another one with --port")
    raise StackError(f"no free port in {candidates[0]}-{candidates[-1]}; choose one with --port")


def _start_children(settings: Settings, children: Children) -> str:
    logs = settings.data_dir / "logs"
    if "broker_url" not in settings.model_fields_set:
        broker = EmbeddedBroker(logs / "valkey.log")
        settings.broker_url = broker.url
        children.start(
            Child("Valkey", broker.command, {**os.environ}, broker.log_file, broker.configuration)
        )
    environment = child_environment(settings)
    children.start(Child("API", python_module("app.server"), environment, logs / "api.log"))
    worker = python_module("worker.main")
    children.start(Child("worker", worker, environment, logs / "worker.log"))
    return settings.local_url


def _wait_until_ready(stack: Stack) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    last = "it did not answer"
    # trust_env: proxies must not be used for this machine.
    with httpx.Client(timeout=5, trust_env=False) as client:
        while time.monotonic() < deadline:
            try:
                stack.children.check(starting=True)
            except ChildFailed as error:
                raise StackError(str(error)) from None
            try:
                response = client.get(f"{stack.url}/readyz")
                last = response.text
                if response.is_success and response.json()["status"] == "ready":
                    return
            except (httpx.TransportError, ValueError, KeyError):
                pass
            time.sleep(0.2)
    logs = stack.settings.data_dir / "logs"
    raise StackError(
        f"the server was not ready within {START_TIMEOUT_S:.0f} seconds: {last} (logs in {logs})"
    )
