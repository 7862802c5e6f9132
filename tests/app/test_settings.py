"""Settings that cannot be: the command line names the variable."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LOG_FORMAT", "xml", "HALFLAYER_LOG_FORMAT: Input should be 'text' or 'json'"),
        ("ALLOWED_HOSTS", "a.example", "allowed_hosts"),
        ("LEASE_S", "0", "HALFLAYER_LEASE_S: Input should be greater than 0"),
    ],
)
def test_a_wrong_variable_is_named_in_one_line(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "app.cli", "migrate"],
        env=os.environ | {f"HALFLAYER_{name}": value, "HALFLAYER_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("halflayer: ")
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
