"""What a scenario is given: its seed, its folder, and how often to inject."""

import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.figures import Row


@dataclass(frozen=True)
class Trial:
    """One execution of a scenario."""

    seed: int
    long: bool
    """The whole of it; otherwise just enough to see that it works."""
    folder: Path
    say: Callable[[str], None] = field(default=lambda _: None)
    """Shows how far the scenario is."""

    def times(self, short: int, long: int) -> int:
        """How often to inject the fault."""
        return long if self.long else short

    def random(self, *names: object) -> random.Random:
        """Randomness of this trial and these names."""
        return random.Random("/".join(map(str, (self.seed, *names))))

    def new_folder(self, name: str) -> Path:
        """An empty folder of its own."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))


Scenario = Callable[[Trial], Iterator[Row]]
