"""The metrics of a run, reduced so that spikes are kept; writes nothing."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.runs.models import MetricPoint, Run
from app.runs.schemas import RunMetrics, Series

Point = tuple[int, float | None]
MIN_POINTS = 4
DEFAULT_POINTS = 1_500


def run_metrics(
    session: Session, run: Run, names: list[str] | None, since: int, max_points: int
) -> RunMetrics:
    """Metrics of `run` (all, or those named) after the sequence number `since`."""
    query = (
        select(MetricPoint.name, MetricPoint.step, MetricPoint.value)
        .where(
            MetricPoint.run_id == run.id,
            MetricPoint.seq > since,
            # Points written after `run` was read are left to the next request.
            MetricPoint.seq <= run.event_seq,
        )
        .order_by(MetricPoint.seq)
    )
    if names is not None:
        query = query.where(MetricPoint.name.in_(names))
    curves: dict[str, dict[int, float | None]] = {}
    for name, step, value in session.execute(query):
        # Sequence numbers rise over attempts: the value of the latest attempt is kept.
        curves.setdefault(name, {})[step] = value
    series = []
    sampled = False
    for name in sorted(curves):
        points = sorted(curves[name].items())
        shown = extremes(points, max_points)
        sampled = sampled or len(shown) < len(points)
        series.append(
            Series(name=name, steps=[step for step, _ in shown], values=[v for _, v in shown])
        )
    return RunMetrics(series=series, last_seq=max(since, run.event_seq), sampled=sampled)


def extremes(points: list[Point], max_points: int) -> list[Point]:
    """At most `max_points` of `points`: the first, the last, minimum and maximum of each bucket.

    A non-finite value (None) counts as the maximum, so that it is always kept.
    """
    if len(points) <= max(max_points, MIN_POINTS):
        return points
    inner = points[1:-1]
    buckets = (max(max_points, MIN_POINTS) - 2) // 2
    kept = [points[0]]
    for number in range(buckets):
        bucket = inner[number * len(inner) // buckets : (number + 1) * len(inner) // buckets]
        least, greatest = min(bucket, key=_height), max(bucket, key=_height)
        kept.extend(sorted({least, greatest}, key=lambda point: point[0]))
    kept.append(points[-1])
    return kept


def _height(point: Point) -> float:
    return float("inf") if point[1] is None else point[1]
