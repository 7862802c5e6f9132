"""Limits the number of connections and selects which to close; knows no HTTP."""

from typing import Protocol

from app.web.limits import Budget


class Evictable(Protocol):
    """A connection that `Connections` can close."""

    address: str
    answering: bool
    """Whether it waits for the rest of a response."""

    def evict(self) -> None:
        """Close it at once."""


class Connections:
    """The open connections of a process, limited per address and in total.

    Connections with an authenticated request are kept. Others are closed to make room for new ones:
    first those without a complete request, then those whose response is not complete, since it may
    never be read.
    """

    def __init__(self, in_all: int, per_address: int) -> None:
        self._room = Budget(in_all, per_address)
        self._open: set[Evictable] = set()
        self._evictable: dict[str, dict[Evictable, None]] = {}
        """By address, oldest first."""

    def admit(self, connection: Evictable) -> bool:
        """Count a new connection; False if no room can be made."""
        while not self._room.take(connection.address):
            address = connection.address
            if self._room.has_room_for(address):
                # The address with the most connections makes room.
                address = max(
                    self._evictable, key=lambda each: len(self._evictable[each]), default=""
                )
            if address not in self._evictable:
                return False
            found = self._evictable[address]
            oldest = next((each for each in found if not each.answering), next(iter(found)))
            self.remove(oldest)
            oldest.evict()
        self._open.add(connection)
        self.set_evictable(connection, True)
        return True

    def set_evictable(self, connection: Evictable, evictable: bool) -> None:
        """Set whether it may be closed to make room."""
        if connection not in self._open:
            return
        of_address = self._evictable.setdefault(connection.address, {})
        if evictable:
            of_address.setdefault(connection)
        else:
            of_address.pop(connection, None)
        if not of_address:
            del self._evictable[connection.address]

    def remove(self, connection: Evictable) -> None:
        """Stop counting it; idempotent."""
        self.set_evictable(connection, False)
        if connection in self._open:
            self._open.remove(connection)
            self._room.give_back(connection.address)
