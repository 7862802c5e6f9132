"""What a fault did, in figures with a goal; and the table of them."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_UNITS = {" s": " s", " ms": " ms", " kib": " KiB", " mib": " MiB"}


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
        """For a table: `resumed p99 39 s (at most 90)`."""
        sign = "" if self.met else " **not met**"
        goal = f" (at most {self.at_most:g})" if self.at_most else ""
        why = f": {self.reason}" if self.reason else ""
        return f"{described(self.name, self.value)}{goal}{sign}{why}"


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
    """The rows as a table in Markdown; what there was none of, as it should be, comes first."""
    lines = ["| fault | times | what the user sees | figures |", "|---|---|---|---|"]
    for row in rows:
        none = [each.name.replace("_", " ") for each in row.figures if not each.value]
        words = [", ".join(none) + ": 0"] if none else []
        words += [str(each) for each in row.figures if each.value]
        words += [described(name, value) for name, value in row.facts.items()]
        lines.append(f"| {row.fault} | {row.times:,} | {row.seen} | {'; '.join(words)} |")
    return "\n".join(lines)


def described(name: str, value: object) -> str:
    """A number and what it is, its unit taken from the name's end: `resumed_p99_s`."""
    words, unit = name.replace("_", " "), ""
    for suffix, symbol in _UNITS.items():
        if words.endswith(suffix):
            words, unit = words.removesuffix(suffix), symbol
    if isinstance(value, int | float):
        value = f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.2g}"
    return f"{words} {value}{unit}"


def merged(rows: list[Row]) -> list[Row]:
    """One row per fault, over all times it was injected; facts that differ as a range."""
    by_fault: dict[str, list[Row]] = {}
    for row in rows:
        by_fault.setdefault(row.fault, []).append(row)
    return [_merge(alike) for alike in by_fault.values()]


def _merge(rows: list[Row]) -> Row:
    first = rows[0]
    figures = []
    for name, value in summary(rows).items():
        alike = [figure for row in rows for figure in row.figures if figure.name == name]
        reason = "; ".join(dict.fromkeys(figure.reason for figure in alike if figure.reason))
        figures.append(Figure(name, value, alike[0].at_most, reason))
    facts: dict[str, Any] = {}
    for name in first.facts:
        values = sorted({row.facts[name] for row in rows if name in row.facts})
        facts[name] = values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
    return Row(first.fault, sum(row.times for row in rows), first.seen, figures, facts)


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


@dataclass(frozen=True)
class Outcome:
    """What came of one scenario with one seed."""

    name: str
    seed: int
    form: str
    rows: list[Row]
    broken: str
    """What stopped the scenario itself; empty if it came to its end."""
    elapsed_s: float

    @property
    def met(self) -> bool:
        return not self.broken and all(row.met for row in self.rows)

    def save(self, file: Path) -> None:
        """Write it, whole or not at all."""
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        temporary.replace(file)

    @classmethod
    def load(cls, file: Path) -> "Outcome":
        """Read what `save` wrote. Raises OSError."""
        saved = json.loads(file.read_text(encoding="utf-8"))
        rows = [
            Row(**row | {"figures": [Figure(**figure) for figure in row["figures"]]})
            for row in saved["rows"]
        ]
        return cls(**saved | {"rows": rows})
