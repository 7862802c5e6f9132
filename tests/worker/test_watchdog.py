"""The watchdog, on a clock that the tests set."""

from pathlib import Path

import pytest

from worker.watchdog import MAX_LOOK_S, MULTIPLE, Watchdog


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
        """Look once a second for so long; whether it barks at the end."""
        barks = False
        for _ in range(round(seconds)):
            self.now_s += 1.0
            barks = self.dog.barks()
        return barks


@pytest.fixture
def listening(tmp_path: Path) -> Listening:
    return Listening(tmp_path / "events.jsonl", 60.0)


def test_it_barks_at_a_silence_from_the_very_start(listening: Listening) -> None:
    assert not listening.listen(60)
    assert listening.listen(1)
    assert listening.dog.barked


def test_a_word_is_enough(listening: Listening) -> None:
    for _ in range(10):
        listening.say()
        assert not listening.listen(59)


def test_long_updates_make_it_patient(listening: Listening) -> None:
    listening.say()
    listening.listen(1)
    assert not listening.listen(50)
    listening.say()
    assert not listening.listen(50 * MULTIPLE)
    assert listening.listen(2)


def test_the_loading_of_libraries_says_nothing_about_updates(listening: Listening) -> None:
    assert not listening.listen(50)
    listening.say()
    assert not listening.listen(61)
    assert listening.listen(1)


def test_whoever_was_frozen_has_not_listened(listening: Listening) -> None:
    listening.say()
    listening.listen(1)
    listening.now_s += 3600
    assert not listening.dog.barks()
    assert listening.dog.silent_s == MAX_LOOK_S
