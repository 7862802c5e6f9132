"""The wall clock jumps by an hour, forwards and back, while runs train; libfaketime moves it."""

import importlib.util
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import psutil

from app.runs.states import FINAL
from faults.figures import Figure, Row
from faults.installation import Installation, installation, teacher, wait_for
from faults.kills import Damage
from faults.trial import Trial

UPDATES = 300
HOUR_S = 3600
READ_AGAIN_S = 1.0
"""The library looks at its file no oftener than this."""


def library() -> Path:
    """libfaketime as its wheel brings it, found without importing the package."""
    spec = importlib.util.find_spec("libfaketime")
    assert spec is not None
    assert spec.origin is not None
    [found] = Path(spec.origin).parent.rglob("libfaketime.so.1")
    return found


class WallClock:
    """The wall clock of an installation; the time that counts upwards only is left alone."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process go by this clock."""
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(READ_AGAIN_S),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Files keep their times: Python compares them, and would recompile all modules.
            "NO_FAKE_STAT": "1",
        }

    @staticmethod
    def remove_leftovers() -> None:
        """Remove what the library leaves behind of processes that were killed."""
        for path in Path("/dev/shm").glob("*faketime_*"):
            if not psutil.pid_exists(int(path.name.rpartition("_")[2])):
                path.unlink(missing_ok=True)

    def set(self, offset_s: int) -> None:
        """So much before or after the real time; it takes a second or two to show."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n")
        fresh.replace(self._file)


def _is_ahead(stand: Installation, offset_s: int) -> bool:
    """Whether the server goes by a wall clock that is so much ahead of the real one."""
    shown = parsedate_to_datetime(stand.http.get("/runs").headers["date"])
    return abs(shown.timestamp() - time.time() - offset_s) < HOUR_S / 2


def clock(trial: Trial) -> Iterator[Row]:
    """Forwards, backwards by two, back to the truth; always in the midst of a run."""
    folder = trial.new_folder("clock")
    wall = WallClock(folder / "wall-clock")
    jumps = [HOUR_S, -HOUR_S, 0] * trial.times(1, 2)
    damage, false_recoveries = Damage(), 0
    # Far more than a busy machine holds up a heartbeat, far less than an hour.
    lease = {"HALFLAYER_LEASE_S": "20"}
    with installation(folder / "stand", **wall.environment, **lease) as stand:
        config = teacher(stand.upload_text(), UPDATES)
        stand.undisturbed = stand.client.submit_run(config)["id"]
        stand.wait_final([stand.undisturbed])
        ids = []
        for number, offset_s in enumerate(jumps):
            trial.say(f"the wall clock jumps: {number} of {len(jumps)}")
            if not ids or stand.run(ids[-1]).state in FINAL:
                ids.append(stand.client.submit_run(config)["id"])
            stand.wait_points(ids[-1])
            wall.set(offset_s)
            wait_for(lambda ahead_s=offset_s: _is_ahead(stand, ahead_s), 60, "the clock to jump")
            if trial.long:
                time.sleep(30)
        for run in stand.wait_final(ids):
            false_recoveries += run.attempt - 1
            damage.compare(stand, run.id, stand.undisturbed)
    wall.remove_leftovers()
    yield Row(
        "the wall clock of API, workers and trainers jumps by an hour, both ways",
        len(jumps),
        "nothing but the times shown",
        [*damage.figures(), Figure("false_recoveries", false_recoveries)],
        {"runs": damage.runs},
    )
