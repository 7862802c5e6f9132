"""Curves: thinned without losing spikes, the same for the same request, later attempts win."""

import math

import pytest

from app.runs.models import MetricPoint
from app.runs.series import extremes
from tests.app.conftest import Api


def points(run_id: str, values: list[float | None], **changes: int) -> list[MetricPoint]:
    """One point a step, numbered from `seq`."""
    attempt, seq, step = changes.get("attempt", 1), changes.get("seq", 1), changes.get("step", 1)
    return [
        MetricPoint(
            run_id=run_id, seq=seq + i, name="loss", attempt=attempt, step=step + i, value=value
        )
        for i, value in enumerate(values)
    ]


def test_short_series_stay_as_they_are() -> None:
    series = [(step, float(step)) for step in range(100)]
    assert extremes(series, 100) == series


@pytest.mark.parametrize("max_points", [4, 5, 10, 333, 1500])
@pytest.mark.parametrize("length", [1501, 5000, 12_345])
def test_long_series_keep_both_ends_and_every_spike(length: int, max_points: int) -> None:
    series = [(step, math.sin(step / 50)) for step in range(length)]
    series[length // 2] = (length // 2, 99.0)
    series[length // 3] = (length // 3, -99.0)
    shown = extremes(series, max_points)
    assert len(shown) <= max_points
    assert shown[0] == series[0]
    assert shown[-1] == series[-1]
    assert max(value for _, value in shown if value is not None) == 99.0
    assert min(value for _, value in shown if value is not None) == -99.0
    steps = [step for step, _ in shown]
    assert steps == sorted(set(steps))
    assert set(shown) <= set(series)
    assert extremes(series, max_points) == shown


def test_a_value_that_was_not_finite_is_a_spike_too() -> None:
    series: list[tuple[int, float | None]] = [(step, 1.0) for step in range(10_000)]
    series[4321] = (4321, None)
    assert (4321, None) in extremes(series, 100)


def test_the_later_attempt_wins_step_by_step(api_everywhere: Api) -> None:
    api = api_everywhere
    run_id = api.add_run(event_seq=7)
    api.add(*points(run_id, [5.0, 4.0, 3.0, 2.0]))
    api.add(*points(run_id, [30.0, 20.0, None], attempt=2, seq=5, step=3))
    body = api.get(f"/runs/{run_id}/metrics").json()
    assert body == {
        "series": [
            {"name": "loss", "steps": [1, 2, 3, 4, 5], "values": [5.0, 4.0, 30.0, 20.0, None]}
        ],
        "last_seq": 7,
        "sampled": False,
    }


def test_since_returns_only_what_is_new(api: Api) -> None:
    run_id = api.add_run(event_seq=5)
    api.add(*points(run_id, [5.0, 4.0, 3.0, 2.0, 1.0]))
    body = api.get(f"/runs/{run_id}/metrics?since=3").json()
    assert body["series"] == [{"name": "loss", "steps": [4, 5], "values": [2.0, 1.0]}]
    assert api.get(f"/runs/{run_id}/metrics?since=5").json()["series"] == []
    assert api.get(f"/runs/{run_id}/metrics?since=99").json()["last_seq"] == 99


def test_names_choose_curves(api: Api) -> None:
    run_id = api.add_run(event_seq=1)
    for name in ("loss", "loss/ce", "lr"):
        api.add(MetricPoint(run_id=run_id, seq=1, name=name, attempt=1, step=1, value=0.5))
    body = api.get(f"/runs/{run_id}/metrics?names=loss/ce,lr,nothing").json()
    assert [each["name"] for each in body["series"]] == ["loss/ce", "lr"]
    assert len(api.get(f"/runs/{run_id}/metrics").json()["series"]) == 3


def test_long_series_are_said_to_be_sampled(api: Api) -> None:
    run_id = api.add_run(event_seq=4000)
    api.add(*points(run_id, [float(i % 7) for i in range(4000)]))
    body = api.get(f"/runs/{run_id}/metrics").json()
    assert body["sampled"] is True
    assert len(body["series"][0]["steps"]) <= 1500
    assert body["series"][0]["steps"][0] == 1
    assert body["series"][0]["steps"][-1] == 4000
