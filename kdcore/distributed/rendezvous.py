"""A rendezvous for the processes of one machine that is not reachable from outside.

torchrun's own listens on all interfaces, without authentication, and unpickles what it receives.
"""

import socket
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

LOOPBACK = "loopback"
_ADDRESS = "127.0.0.1"


class LoopbackRendezvous(RendezvousHandler):
    """The rendezvous of a single host; nothing to wait for."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        listener = socket.create_server((_ADDRESS, 0))
        self._port: int = listener.getsockname()[1]
        self._store = TCPStore(
            _ADDRESS,
            self._port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(minutes=10),
            master_listen_fd=listener.detach(),
        )

    def get_backend(self) -> str:
        return LOOPBACK

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        store = PrefixStore(self._run_id, self._store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(_ADDRESS, self._port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Nothing to do: there is no other host."""

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    return LoopbackRendezvous(parameters.run_id)


def register_loopback() -> None:
    """Register it with torchrun under the name `LOOPBACK`."""
    rendezvous_handler_registry.register(LOOPBACK, _create)
