"""How many connections there may be, and which of them must make room; knows no HTTP."""

from typing import Protocol

from app.limits import Budget


class Evictable(Protocol):
    """A connection as `Connections` sees it."""

    address: str

    def evict(self) -> None:
        """Close it at once."""


class Connections:
    """The open connections of a process, within a limit for each address and in all.

    A connection that waits for a request, since none or only half of one has come, makes room for
    a new one; a connection whose request is being answered does not.
    """

    def __init__(self, in_all: int, per_address: int) -> None:
        self._room = Budget(in_all, per_address)
        self._open: set[Evictable] = set()
        self._waiting: dict[str, dict[Evictable, None]] = {}
        """By address; the one that has waited longest comes first."""

    def admit(self, connection: Evictable) -> bool:
        """Count a new connection; False if there is no room, and none can be made."""
        while not self._room.take(connection.address):
            address = connection.address
            if self._room.has_room_for(address):
                # The address that has most of them takes the room of the others.
                address = max(self._waiting, key=lambda each: len(self._waiting[each]), default="")
            if address not in self._waiting:
                return False
            longest = next(iter(self._waiting[address]))
            self.remove(longest)
            longest.evict()
        self._open.add(connection)
        self.set_waiting(connection, True)
        return True

    def set_waiting(self, connection: Evictable, waiting: bool) -> None:
        """Note whether it waits for a request, or one is being answered."""
        if connection not in self._open:
            return
        of_address = self._waiting.setdefault(connection.address, {})
        if waiting:
            of_address.setdefault(connection)
        else:
            of_address.pop(connection, None)
        if not of_address:
            del self._waiting[connection.address]

    def remove(self, connection: Evictable) -> None:
        """Count it no more; doing it twice is fine."""
        self.set_waiting(connection, False)
        if connection in self._open:
            self._open.remove(connection)
            self._room.give_back(connection.address)
