"""What counts as training time, and when a checkpoint is due."""

import pytest

import kdcore.train.metrics
from kdcore.config import Reporting
from kdcore.train.metrics import TrainingTimer


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    moved = Time()
    monkeypatch.setattr(kdcore.train.metrics, "time", moved)
    return moved


def test_pauses_count_neither_as_training_nor_in_the_throughput(time: Time) -> None:
    clock = TrainingTimer(0, 10, 5.0, Reporting(), tokens_before=600)
    time.now_s += 2
    assert clock.tokens_per_s(1000) == 400 / 2, "of this attempt alone"
    with clock.paused():
        time.now_s += 50
    time.now_s += 4
    assert clock.trained_s() == 5 + 2 + 4
    assert clock.tokens_per_s(1800) == 800 / 4


def test_checkpoints_take_at_most_a_hundredth_of_the_time(time: Time) -> None:
    clock = TrainingTimer(0, 10, 0.0, Reporting(checkpoint_every_s=120))
    time.now_s += 119
    assert not clock.checkpoint_due()
    time.now_s += 1
    assert clock.checkpoint_due()
    with clock.saving():
        time.now_s += 3
    time.now_s += 299
    assert not clock.checkpoint_due(), "3 s are 1 % of 300 s"
    time.now_s += 1
    assert clock.checkpoint_due()


def test_zero_saves_after_every_step_whatever_it_takes(time: Time) -> None:
    clock = TrainingTimer(0, 10, 0.0, Reporting(checkpoint_every_s=0))
    with clock.saving():
        time.now_s += 30
    assert clock.checkpoint_due()
