"""Counts what clients hold concurrently, limited per client and in total; knows no HTTP."""

from collections import Counter


class Budget:
    """A concurrent limit of connections, uploads, or bytes of bodies.

    Not thread-safe: for the event loop only.
    """

    def __init__(self, in_all: int, per_client: int) -> None:
        self.in_all = in_all
        self.per_client = min(per_client, in_all)
        self._held: Counter[str] = Counter()
        self._total = 0

    def has_room_for(self, client: str, amount: int = 1) -> bool:
        """Whether the limit of this client allows `amount` more."""
        return self._held.get(client, 0) + amount <= self.per_client

    def take(self, client: str, amount: int = 1) -> bool:
        """Take `amount` if both limits allow it."""
        if not self.has_room_for(client, amount) or self._total + amount > self.in_all:
            return False
        self._held[client] += amount
        self._total += amount
        return True

    def give_back(self, client: str, amount: int = 1) -> None:
        """Release `amount`."""
        self._total -= amount
        self._held[client] -= amount
        if not self._held[client]:
            del self._held[client]
