"""How many connections there may be, and which of them must make room; knows no HTTP."""

from typing import Protocol

from app.web.limits import Budget


class Evictable(Protocol):
    """A connection as `Connections` sees it."""

    address: str
    answering: bool
    """Whether it has sent a whole request, whose answer is not complete."""

    def evict(self) -> None:
        """Close it at once."""


class Connections:
    """The open connections of a process, within a limit for each address and in all.

    A connection stays while it is used by somebody who is signed in. Any other one makes room for a
    new one: first those with no request or half of one, then those whose answer is not complete,
    since it may never be read.
    """

    def __init__(self, in_all: int, per_address: int) -> None:
        self._room = Budget(in_all, per_address)
        self._open: set[Evictable] = set()
        self._evictable: dict[str, dict[Evictable, None]] = {}
        """By address; the one that has been so longest comes first."""

    def admit(self, connection: Evictable) -> bool:
        """Count a new connection; False if there is no room, and none can be made."""
        while not self._room.take(connection.address):
            address = connection.address
            if self._room.has_room_for(address):
                # The address that has most of them takes the room of the others.
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
        """Note whether it may be closed to make room."""
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
        """Count it no more; doing it twice is fine."""
        self.set_evictable(connection, False)
        if connection in self._open:
            self._open.remove(connection)
            self._room.give_back(connection.address)
