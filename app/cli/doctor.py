"""`halflayer doctor`: prints the findings of the checks."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from app.cli.connect import DataDir, settings_of
from app.cli.terminal import console
from app.doctor.findings import Status

SIGNS: dict[Status, tuple[str, str]] = {
    "ok": ("ok      ", "green"),
    "warning": ("warning ", "yellow"),
    "failed": ("FAILED  ", "red"),
    "skipped": ("skipped ", "dim"),
}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Check this installation and suggest fixes; exit code 1 if a check fails."""
    from app.doctor.examine import examine  # noqa: PLC0415

    findings = []
    for finding in examine(lambda: settings_of(data_dir)):
        findings.append(finding)
        if not as_json:
            word, style = SIGNS[finding.status]
            line = Text(word, style).append(f"{finding.check}: {finding.detail}", "default")
            console.print(line, soft_wrap=True)
            if finding.remedy:
                console.print(Text(f"        -> {finding.remedy}"), soft_wrap=True)
    well = all(finding.status != "failed" for finding in findings)
    if as_json:
        report = {"ok": well, "findings": [asdict(finding) for finding in findings]}
        console.print_json(json.dumps(report))
    elif not well:
        console.print("Some checks failed.", style="red")
    raise typer.Exit(0 if well else 1)
