"""What a fault did, in figures with a goal; and the table of them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One number and what it must be; `name` is its key in the JSON."""

    name: str
    value: float
    at_most: float = 0.0
    reason: str = ""
    """Why the goal is not met, where that is known."""

    @property
    def met(self) -> bool:
        return self.value <= self.at_most

    def __str__(self) -> str:
        sign = "" if self.met else " **not met**"
        goal = f" (at most {self.at_most:g})" if self.at_most else ""
        why = f": {self.reason}" if self.reason else ""
        return f"{self.name} {self.value:.4g}{goal}{sign}{why}"


@dataclass(frozen=True)
class Row:
    """One fault, and what came of it."""

    fault: str
    times: int
    seen: str
    """What the user sees."""
    figures: list[Figure]
    facts: dict[str, Any] = field(default_factory=dict)
    """Further numbers without a goal."""

    @property
    def met(self) -> bool:
        return all(figure.met for figure in self.figures)


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def table(rows: list[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| fault | times | what the user sees | figures |", "|---|---|---|---|"]
    for row in rows:
        facts = [f"{name} {value}" for name, value in row.facts.items()]
        figures = "; ".join([*map(str, row.figures), *facts])
        lines.append(f"| {row.fault} | {row.times} | {row.seen} | {figures} |")
    return "\n".join(lines)


def summary(rows: list[Row]) -> dict[str, float]:
    """Every figure by name, the worst of its kind: counts are added, the rest is the greatest."""
    found: dict[str, float] = {}
    for figure in (figure for row in rows for figure in row.figures):
        before = found.get(figure.name)
        if before is None:
            found[figure.name] = figure.value
        elif figure.name.endswith(("_s", "_mib", "_kib", "_bytes")):
            found[figure.name] = max(before, figure.value)
        else:
            found[figure.name] = before + figure.value
    return found
