"""Draws the sweeps as one SVG, small panels side by side; measures nothing."""

from dataclasses import dataclass
from pathlib import Path

_PANEL_W, _PANEL_H = 230, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 34, 34
_COLOURS = {"teacher": "#2a6fbb", "distill": "#b4541a"}
_UNITS = {
    "tokens": "tokens per step",
    "layers": "teacher's layers",
    "hidden": "hidden size",
    "vocab": "vocabulary",
}


@dataclass(frozen=True)
class Series:
    """One sweep: sizes, seconds an update, and the line through them."""

    goal: str
    what: str
    xs: list[float]
    ys: list[float]
    fit: dict[str, float]


def write_svg(found: list[Series], path: Path) -> None:
    """One row of panels a goal, in the order given."""
    goals = list(dict.fromkeys(series.goal for series in found))
    columns = max(sum(series.goal == goal for series in found) for goal in goals)
    width, height = columns * _PANEL_W, len(goals) * _PANEL_H
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for row, goal in enumerate(goals):
        for column, series in enumerate(s for s in found if s.goal == goal):
            parts.append(f'<g transform="translate({column * _PANEL_W},{row * _PANEL_H})">')
            parts += _panel(series)
            parts.append("</g>")
    parts.append("</svg>")
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _panel(series: Series) -> list[str]:
    most_x, most_y = max(series.xs), max(series.ys) * 1.1
    inner_w, inner_h = _PANEL_W - _LEFT - _RIGHT, _PANEL_H - _TOP - _BOTTOM
    floor = _PANEL_H - _BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + inner_w * x / most_x, floor - inner_h * y / most_y

    colour, fitted = _COLOURS.get(series.goal, "black"), series.fit
    low, high = series.xs[0], series.xs[-1]
    x1, y1 = at(low, fitted["slope"] * low + fitted["start"])
    x2, y2 = at(high, fitted["slope"] * high + fitted["start"])
    dots = [at(x, y) for x, y in zip(series.xs, series.ys, strict=True)]
    return [
        _text(_LEFT, 16, f"{series.goal}, R² {fitted['r2']:.4f}"),
        f'<path d="M{_LEFT} {_TOP}V{floor}H{_PANEL_W - _RIGHT}" fill="none" stroke="#888"/>',
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#bbb"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in dots),
        _text(_LEFT - 4, floor, "0", "end"),
        _text(_LEFT - 4, _TOP + 4, f"{most_y:.2g} s", "end"),
        _text(_PANEL_W - _RIGHT, floor + 14, f"{most_x:,.0f}", "end"),
        _text(_LEFT, floor + 14, "0"),
        _text(_LEFT + inner_w / 2, floor + 28, _UNITS.get(series.what, series.what), "middle"),
    ]


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'
