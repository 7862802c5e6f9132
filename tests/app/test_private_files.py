"""What holds tokens, data or results is its user's alone, whichever command made it, and when."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.doctor import machine
from app.migrations import upgrade
from app.private_files import keep_private, open_to_others
from app.settings import Settings


def lax(folder: Path) -> list[str]:
    """What other users can reach: an entry of a private folder is out of their reach."""
    if not folder.stat().st_mode & 0o077:
        return []
    inside = [path for path in folder.rglob("*") if path.stat().st_mode & 0o077]
    return sorted(str(path.relative_to(folder)) for path in [folder, *inside])


def old_installation(folder: Path) -> Path:
    """A data folder as earlier versions left it."""
    for name in ("artifacts", "uploads", "work", "logs"):
        (folder / name).mkdir(parents=True, mode=0o755)
    (folder / "cli-token").write_text("hl_api_secret\n")
    upgrade(f"sqlite:///{folder / 'halflayer.db'}")
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def halflayer(module: str, *words: str, data_dir: Path, **settings: str) -> None:
    subprocess.run(
        [sys.executable, "-m", module, *words],
        env=os.environ | {"HALFLAYER_DATA_DIR": str(data_dir)} | settings,
        umask=0o022,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.integration
@pytest.mark.parametrize(
    "command",
    [
        ("app.cli", "migrate"),
        ("app.cli", "token", "create"),
        ("app.cli", "token", "list"),
        ("app.cli", "cleanup", "--dry-run"),
        ("app.cli", "backup", "{parent}/backup"),
        ("app.cli", "up"),
        ("app.server",),
        ("worker.main", "--device", "nonsense"),
    ],
    ids=" ".join,
)
def test_every_command_makes_an_old_folder_private(tmp_path: Path, command: tuple[str]) -> None:
    data_dir = old_installation(tmp_path / "data")
    assert len(lax(data_dir)) > 5
    words = [word.format(parent=tmp_path) for word in command]
    # No process may listen there, so a server ends at once.
    halflayer(*words, data_dir=data_dir, HALFLAYER_HOST="203.0.113.1", HALFLAYER_PORT="9")
    assert lax(data_dir) == []
    assert open_to_others(Settings(data_dir=data_dir)) == []
    files = [path for path in data_dir.iterdir() if path.is_file()]
    assert files
    assert not any(path.stat().st_mode & 0o077 for path in files)


@pytest.mark.integration
def test_what_a_command_makes_is_private_from_the_first(tmp_path: Path) -> None:
    data_dir, backup = tmp_path / "new" / "data", tmp_path / "backup"
    halflayer("app.cli", "migrate", data_dir=data_dir)
    halflayer("app.cli", "backup", str(backup), data_dir=data_dir)
    halflayer("app.cli", "restore", str(backup), data_dir=tmp_path / "restored")
    for folder in (data_dir, backup, tmp_path / "restored"):
        made = [folder, *folder.rglob("*")]
        assert len(made) > 2
        assert [path for path in made if path.stat().st_mode & 0o077] == []


def test_no_data_folder_is_made_where_none_is_needed(tmp_path: Path) -> None:
    keep_private(Settings(data_dir=tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_a_database_elsewhere_is_private_too(tmp_path: Path) -> None:
    elsewhere = old_installation(tmp_path / "elsewhere") / "halflayer.db"
    keep_private(Settings(data_dir=tmp_path / "data", database_url=f"sqlite:///{elsewhere}"))
    assert elsewhere.stat().st_mode & 0o777 == 0o600
    assert elsewhere.parent.stat().st_mode & 0o777 == 0o755, "a folder that no setting names"


def test_in_a_folder_that_others_share_only_ours_is_changed(tmp_path: Path) -> None:
    data_dir = old_installation(tmp_path / "shared")
    (data_dir / "foreign.txt").touch(0o644)
    keep_private(Settings(data_dir=data_dir))
    assert lax(data_dir) == [".", "foreign.txt"]


def test_a_folder_of_another_user_or_for_all_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sticky, home = tmp_path / "sticky", tmp_path / "home"
    for folder in (sticky, home):
        folder.mkdir(mode=0o755)
    sticky.chmod(0o1777)
    monkeypatch.setenv("HOME", str(home))
    for folder, mode in ((sticky, 0o1777), (home, 0o755)):
        keep_private(Settings(data_dir=folder))
        assert folder.stat().st_mode & 0o7777 == mode
    theirs = old_installation(tmp_path / "theirs")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    keep_private(Settings(data_dir=theirs))
    assert theirs.stat().st_mode & 0o777 == 0o755


@pytest.mark.integration
def test_the_doctor_names_what_is_open(tmp_path: Path) -> None:
    data_dir = old_installation(tmp_path / "data")
    (found,) = [
        finding
        for finding in machine.data_folder(Settings(data_dir=data_dir))
        if finding.check == "permissions"
    ]
    assert found.status == "warning"
    assert str(data_dir / "cli-token") in found.remedy
    subprocess.run(found.remedy.split(), check=True)
    assert open_to_others(Settings(data_dir=data_dir)) == []
