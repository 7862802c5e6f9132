"""`halflayer doctor` on an installation that runs, and on none."""

import json
from pathlib import Path

from tests.e2e.conftest import Installation


def test_a_running_installation_is_well(installation: Installation) -> None:
    installation.link()
    looked = installation.halflayer("doctor", "--json")
    report = json.loads(looked.stdout)
    bad = [finding for finding in report["findings"] if finding["status"] == "failed"]
    assert bad == []
    assert (looked.returncode, report["ok"]) == (0, True)
    seen = {finding["check"] for finding in report["findings"] if finding["status"] == "ok"}
    assert {"python", "torch", "data folder", "database", "broker", "api", "store"} <= seen
    assert {"workers", "page", "clocks"} <= seen


def test_where_nothing_is_installed_it_says_what_to_do(
    installation: Installation, tmp_path: Path
) -> None:
    looked = installation.halflayer("doctor", "--data-dir", str(tmp_path / "nothing"))
    assert looked.returncode == 1
    assert "halflayer up" in looked.stdout
    assert "halflayer migrate" in looked.stdout
    assert not (tmp_path / "nothing").exists()
