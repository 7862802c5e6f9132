"""Prometheus metrics of an API process."""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Telemetry:
    """Request times of one API process; has its own registry, so that applications do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "halflayer_http_request_seconds",
            "Time from the request's first byte to the response's last; a stream's to its first.",
            ["method", "route", "status"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        # Memory, processor time and open files of this process, under Prometheus' usual names.
        ProcessCollector(registry=self._registry)

    def observe(self, method: str, route: str | None, status: int, elapsed_s: float) -> None:
        """Count a request under the name of its operation, never under its path."""
        known = method if method in {"GET", "HEAD", "POST", "PATCH", "DELETE"} else "other"
        # Unknown paths must not become labels, since clients can invent any number of them.
        labels = self._requests.labels(known, route or "none", str(status))
        labels.observe(elapsed_s)

    def render(self, current: list[Metric]) -> bytes:
        """All metrics as Prometheus text, with those collected for this scrape."""
        once = CollectorRegistry()
        once.register(_Once(current))
        return generate_latest(self._registry) + generate_latest(once)


class _Once(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def gauge(name: str, help_text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(name, help_text, value=value)


def counter(name: str, help_text: str, value: float) -> Metric:
    """A counter, exported as `name`_total."""
    return CounterMetricFamily(name, help_text, value=value)


def labelled_gauge(
    name: str, help_text: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]
) -> Metric:
    """A gauge with a value for each combination of labels."""
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
