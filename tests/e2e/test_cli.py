"""The command line against a real installation: tokens, runs, watching, downloads, errors."""

import json
import os
import stat
from pathlib import Path

import pytest

from tests.e2e.conftest import Installation
from tests.e2e.fill_mask import guesses
from tests.fixtures.configs import tiny_pipeline

CONFIG_TIMEOUT_S = 280


@pytest.fixture(scope="module")
def pipeline(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Ids of the runs of a pipeline, submitted from a file and watched to its end."""
    path = tmp_path_factory.mktemp("configs") / "tiny.json"
    path.write_text(json.dumps(tiny_pipeline()))
    submitted = installation.halflayer(
        "runs", "submit", str(path), "--name", "tiny", "--set", "teacher.layer_drop=0.2", "--json"
    )
    assert submitted.returncode == 0, submitted.stderr
    runs = json.loads(submitted.stdout)
    assert [run["kind"] for run in runs] == ["teacher", "prune", "distill"]
    assert runs[0]["config"]["layer_drop"] == 0.2
    ids = [run["id"] for run in runs]
    watched = installation.halflayer("runs", "watch", *ids)
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert watched.stdout.count("succeeded") >= 3
    assert "Eval loss" in watched.stdout
    return ids


def test_up_keeps_its_secrets_to_itself(installation: Installation) -> None:
    installation.link()
    for name in ("cli-token", "server.json"):
        mode = stat.S_IMODE((installation.data_dir / name).stat().st_mode)
        assert mode == 0o600, name


def test_a_second_up_on_the_same_folder_says_so(installation: Installation) -> None:
    second = installation.halflayer("up")
    assert second.returncode == 1
    assert "already running" in second.stderr
    assert installation.url in second.stderr


def test_list_shows_the_pipeline(installation: Installation, pipeline: list[str]) -> None:
    listed = installation.halflayer("runs", "list", "--query", "tiny")
    assert listed.returncode == 0, listed.stderr
    assert all(run_id in listed.stdout for run_id in pipeline)


def test_a_download_resumes_and_repairs(
    installation: Installation, pipeline: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    first = installation.halflayer("runs", "download", pipeline[2], "--to", str(folder))
    assert first.returncode == 0, first.stderr
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    assert guesses(folder)

    # Half a file under the temporary name is continued; a damaged one is fetched again.
    weights.unlink()
    (folder / "model.safetensors.part").write_bytes(whole[: len(whole) // 2])
    (folder / "config.json").write_text("{}")
    again = installation.halflayer("runs", "download", pipeline[2], "--to", str(folder))
    assert again.returncode == 0, again.stderr
    assert weights.read_bytes() == whole
    assert json.loads((folder / "config.json").read_text())
    assert not list(folder.glob("*.part"))

    # A half file that is not of this file is noticed by its hash and never shown as whole.
    weights.unlink()
    (folder / "model.safetensors.part").write_bytes(bytes(len(whole) // 2))
    damaged = installation.halflayer("runs", "download", pipeline[2], "--to", str(folder))
    assert damaged.returncode == 6
    assert not weights.exists()
    repaired = installation.halflayer("runs", "download", pipeline[2], "--to", str(folder))
    assert repaired.returncode == 0, repaired.stderr
    assert weights.read_bytes() == whole


def test_submit_refuses_what_the_server_refuses(installation: Installation, tmp_path: Path) -> None:
    wrong = installation.halflayer(
        "runs", "submit", "small-teacher", "--set", "model.heads=3", "--set", "schedule.max_steps=1"
    )
    assert wrong.returncode == 5
    assert "halflayer: /model" in wrong.stderr, "a pointer into the config, as it was given"
    assert len(wrong.stderr.strip().splitlines()) == 1
    unknown = installation.halflayer("runs", "submit", "no-such-preset")
    assert unknown.returncode == 5
    assert "small-teacher" in unknown.stderr
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    unreadable = installation.halflayer("runs", "submit", str(broken))
    assert unreadable.returncode == 1
    usage = installation.halflayer("runs", "submit", "small-teacher", "--set", "seed")
    assert usage.returncode == 2


def test_cancel_stops_a_run_and_watch_reports_it(installation: Installation) -> None:
    submitted = installation.halflayer(
        "runs", "submit", "small-teacher", "--name", "to be cancelled", "--json"
    )
    run_id = json.loads(submitted.stdout)[0]["id"]
    cancelled = installation.halflayer("runs", "cancel", run_id)
    assert cancelled.returncode == 0, cancelled.stderr
    watched = installation.halflayer("runs", "watch", run_id)
    assert watched.returncode == 1
    assert "cancelled" in watched.stdout
    nothing = installation.halflayer("runs", "download", run_id)
    assert nothing.returncode == 5
    assert "cancelled" in nothing.stderr


def test_tokens_open_what_their_scope_says(installation: Installation) -> None:
    created = installation.halflayer("token", "create", "--name", "reader", "--scope", "read")
    assert created.returncode == 0, created.stderr
    secret = created.stdout.strip()
    remote = ("--server", installation.url, "--token", secret)
    assert installation.halflayer("runs", "list", *remote).returncode == 0
    refused = installation.halflayer("runs", "submit", "small-teacher", *remote)
    assert refused.returncode == 4

    admin = (installation.data_dir / "cli-token").read_text().strip()
    over_rest = ("--server", installation.url, "--token", admin)
    listed = installation.halflayer("token", "list", *over_rest)
    token_id = next(line.split()[0] for line in listed.stdout.splitlines() if "reader" in line)
    assert secret not in listed.stdout
    assert installation.halflayer("token", "revoke", token_id, *over_rest).returncode == 0
    assert installation.halflayer("runs", "list", *remote).returncode == 4


def test_no_server_is_said_in_one_line(installation: Installation, tmp_path: Path) -> None:
    elsewhere = ("--data-dir", str(tmp_path))
    answer = installation.halflayer("runs", "list", *elsewhere)
    assert answer.returncode == 3
    assert "halflayer up" in answer.stderr
    closed = installation.halflayer(
        "runs", "list", "--server", "http://127.0.0.1:9", "--token", "x"
    )
    assert closed.returncode == 3
    assert len(closed.stderr.strip().splitlines()) == 1
    without = installation.halflayer("runs", "list", "--server", installation.url)
    assert without.returncode == 4
    assert os.environ.get("HALFLAYER_TOKEN") is None
