"""One run as a self-contained HTML file; writes nothing."""

import json
from html import escape
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
from sqlalchemy.orm import Session

from app.runs.models import Run
from app.runs.schemas import LineageRun, RunDetail, RunWorker, Series
from app.runs.series import DEFAULT_POINTS, run_metrics
from app.runs.views import run_detail
from kdcore import __version__
from kdcore.figures import curve_label, result_rows

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1c2430 }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem } .quiet { color: #5b6675 }
table { border-collapse: collapse } td, th { padding: .25rem 1rem .25rem 0; text-align: left;
  vertical-align: top; border-bottom: 1px solid #e3e7ec }
pre { background: #f4f6f8; padding: 1rem; overflow: auto }
"""


def render_report(session: Session, run: Run) -> str:
    """Curves, config, results, lineage and versions of a run; all its text is escaped."""
    detail = run_detail(session, run)
    series = run_metrics(session, run, None, 0, DEFAULT_POINTS).series
    parts = [
        f"<h1>{escape(detail.name)}</h1>",
        f'<p class="quiet">{escape(detail.kind)} run {escape(detail.id)}: '
        f"{escape(detail.state)}</p>",
        _error(detail),
        "<h2>Results</h2>",
        _table(dict(result_rows(detail.result))) if detail.result else "<p>None yet.</p>",
        "<h2>Curves</h2>",
        _curves(series),
        "<h2>Lineage</h2>",
        _lineage("Made from", detail.lineage.ancestors),
        _lineage("Made into", detail.lineage.descendants),
        "<h2>Config</h2>",
        f"<pre>{escape(json.dumps(detail.config, indent=2, ensure_ascii=False))}</pre>",
        "<h2>Times</h2>",
        _table(_times(detail)),
        "<h2>Environment</h2>",
        _table(_environment(run, detail.worker)),
        f'<p class="quiet">Report made by Halflayer {__version__}.</p>',
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(detail.name)}</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>"
    )


def _times(detail: RunDetail) -> dict[str, Any]:
    return {
        "Attempts": detail.attempt,
        "Submitted": detail.created_at.isoformat(timespec="seconds"),
        "Started": detail.started_at and detail.started_at.isoformat(timespec="seconds"),
        "Finished": detail.finished_at and detail.finished_at.isoformat(timespec="seconds"),
    }


def _environment(run: Run, worker: RunWorker | None) -> dict[str, Any]:
    """Worker, device and library versions of the last attempt; "-" if unknown."""
    known = run.environment or {}
    return {
        "Worker": worker and f"{worker.hostname} ({worker.device_name})",
        "Device": known.get("device"),
        "Precision": (run.result or {}).get("precision") or run.config.get("precision"),
        "Seed": run.config.get("seed"),
        **{f"{name} version": version for name, version in (known.get("versions") or {}).items()},
    }


def _error(detail: RunDetail) -> str:
    if detail.error is None:
        return ""
    code, message = escape(detail.error.code), escape(detail.error.message)
    return f"<p><strong>Failed ({code}):</strong> {message}</p>"


def _table(rows: dict[str, Any]) -> str:
    cells = "".join(
        f"<tr><th>{escape(str(key))}</th><td>{escape(_words(value))}</td></tr>"
        for key, value in rows.items()
    )
    return f"<table>{cells}</table>"


def _words(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _lineage(title: str, runs: list[LineageRun]) -> str:
    if not runs:
        return f"<p>{title}: nothing.</p>"
    items = "".join(
        f"<li>{escape(run.kind)} {escape(run.name)} ({escape(run.id)}, {escape(run.state)})</li>"
        for run in runs
    )
    return f"<p>{title}:</p><ul>{items}</ul>"


def _curves(series: list[Series]) -> str:
    if not series:
        return "<p>None yet.</p>"
    groups: dict[str, list[Series]] = {}
    for each in series:
        groups.setdefault(_group(each.name), []).append(each)
    charts = []
    for number, (title, members) in enumerate(sorted(groups.items())):
        lines = [
            # SVG lines: WebGL needs a context for each chart, and browsers grant only a few.
            go.Scatter(
                x=each.steps, y=each.values, mode="lines", name=escape(curve_label(each.name))
            )
            for each in members
        ]
        figure = go.Figure(lines)
        figure.update_layout(
            title={"text": escape(title)}, xaxis_title="step", template="plotly_white"
        )
        # The first chart carries plotly.js itself, so that the file works without any network.
        charts.append(pio.to_html(figure, include_plotlyjs=number == 0, full_html=False))
    return "".join(charts)


def _group(name: str) -> str:
    is_loss = name == "loss" or name.startswith(("loss/", "eval/loss"))
    return "Losses" if is_loss else curve_label(name)
