"""The watchdog, on a clock that the tests set."""

from pathlib import Path

import pytest

from worker.watchdog import MAX_CHECK_S, MULTIPLE, Watchdog


class Listening:
    """A watchdog and the file that it listens to."""

    def __init__(self, path: Path, at_least_s: float) -> None:
        self.now_s = 0.0
        self._path = path
        self.dog = Watchdog((path,), at_least_s, lambda: self.now_s)

    def say(self) -> None:
        with open(self._path, "a") as file:
            file.write("x")

    def listen(self, seconds: float) -> bool:
        """Look once a second for so long; whether it has detected a hang."""
        hung = False
        for _ in range(round(seconds)):
            self.now_s += 1.0
            hung = self.dog.check()
        return hung


@pytest.fixture
def listening(tmp_path: Path) -> Listening:
    return Listening(tmp_path / "events.jsonl", 60.0)


def test_a_silence_from_the_very_start_is_a_hang(listening: Listening) -> None:
    assert not listening.listen(60)
    assert listening.listen(1)
    assert listening.dog.hung


def test_any_growth_is_enough(listening: Listening) -> None:
    for _ in range(10):
        listening.say()
        assert not listening.listen(59)


def test_long_steps_raise_the_limit(listening: Listening) -> None:
    listening.say()
    listening.listen(1)
    assert not listening.listen(50)
    listening.say()
    assert not listening.listen(50 * MULTIPLE)
    assert listening.listen(2)


def test_the_loading_of_libraries_says_nothing_about_steps(listening: Listening) -> None:
    assert not listening.listen(50)
    listening.say()
    assert not listening.listen(61)
    assert listening.listen(1)


def test_a_frozen_worker_has_not_watched(listening: Listening) -> None:
    listening.say()
    listening.listen(1)
    listening.now_s += 3600
    assert not listening.dog.check()
    assert listening.dog.silent_s == MAX_CHECK_S
