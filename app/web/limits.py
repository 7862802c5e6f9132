"""Counts what clients hold at a time, with a limit for each and for all; knows no HTTP."""

from collections import Counter


class Budget:
    """What may be held at a time: connections, uploads, or bytes of bodies.

    For one thread: that of the event loop.
    """

    def __init__(self, in_all: int, per_client: int) -> None:
        self.in_all = in_all
        self.per_client = min(per_client, in_all)
        self._held: Counter[str] = Counter()
        self._total = 0

    def has_room_for(self, client: str, amount: int = 1) -> bool:
        """Whether this client itself may hold so much more."""
        return self._held.get(client, 0) + amount <= self.per_client

    def take(self, client: str, amount: int = 1) -> bool:
        """Hold so much more, if the client's limit and that of all allow it."""
        if not self.has_room_for(client, amount) or self._total + amount > self.in_all:
            return False
        self._held[client] += amount
        self._total += amount
        return True

    def give_back(self, client: str, amount: int = 1) -> None:
        """Hold so much less."""
        self._total -= amount
        self._held[client] -= amount
        if not self._held[client]:
            del self._held[client]
