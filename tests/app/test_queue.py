"""The settings of the job queue; that it delivers is tested wherever a worker runs."""

from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from app.queue import RECONNECT_S, make_celery
from app.settings import Settings


def test_a_worker_looks_for_its_broker_every_few_seconds_however_long_it_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _seconds: None)
    celery = make_celery(
        Settings(data_dir=tmp_path, broker_url="redis://127.0.0.1:1/0"), retry=True
    )
    waits_s: list[float] = []
    with celery.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda _error, wait_s: waits_s.append(wait_s), 20)
    celery.close()
    assert len(waits_s) == 20
    assert max(waits_s) == RECONNECT_S
