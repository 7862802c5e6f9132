"""`halflayer up` where it cannot start; where it can, see tests/e2e/test_up.py."""

import socket
from pathlib import Path

import pytest

from app.local.stack import StackError, running_stack
from app.settings import Settings


def test_why_a_start_failed_is_in_its_log_too(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        settings = Settings(data_dir=tmp_path / "data", port=holder.getsockname()[1])
        with pytest.raises(StackError, match="is taken"), running_stack(settings, print):
            pytest.fail("it cannot have started")
    assert "is taken" in (tmp_path / "data" / "logs" / "up.log").read_text()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
