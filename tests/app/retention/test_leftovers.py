"""What killed uploads and killed workers left is found and removed, and nothing that is in use."""

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from s3fs import S3FileSystem
from typer.testing import CliRunner

import app.retention.leftovers
from app.cli import main as cli
from app.doctor import services
from app.retention.leftovers import leftovers
from app.runs.models import Artifact
from app.runs.states import RunState
from tests.app.conftest import Api
from tests.fixtures.orphan_guard import OrphanGuard
from tests.fixtures.s3 import S3Server, running_s3

TWO_HOURS_S = 7200


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory, _tether: OrphanGuard) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        _tether.hold(server.process.pid)
        yield server


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.integration)])
def api(
    request: pytest.FixtureRequest,
    make_api: Callable[..., Api],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Api:
    """An installation with each kind of store."""
    if request.param == "disk":
        return make_api()
    server: S3Server = request.getfixturevalue("_server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    return make_api(storage_url=f"{server.url}/{tmp_path.name}")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours pass before the look: the times in a store cannot be set."""

    class Later:
        @staticmethod
        def time() -> float:
            return time.time() + TWO_HOURS_S

    monkeypatch.setattr(app.retention.leftovers, "time", Later)


def put(api: Api, key: str, size_bytes: int = 1000, *, named: bool = False) -> str:
    """A file in the store, with or without a row that names it."""
    local = api.context.settings.data_dir / "local"
    local.write_bytes(b"x" * size_bytes)
    api.context.store.put_file(local, key)
    if named:
        run_id, attempt, path = key.split("/", 2)
        api.add(Artifact(run_id=run_id, path=path, attempt=int(attempt), size_bytes=size_bytes,
                         sha256="0" * 64, storage_key=key))  # fmt: skip
    return key


def cut_off_upload(api: Api, size_bytes: int = 500) -> Path:
    folder = api.context.settings.uploads_dir / ".incoming-abcdefabcdef"
    folder.mkdir(parents=True)
    (folder / "upload").write_bytes(b"x" * size_bytes)
    return folder


def found(api: Api) -> dict[str, tuple[int, bool]]:
    context = api.context
    each = leftovers(context.db, context.settings, context.store)
    return {one.place: (one.size_bytes, one.known) for one in each}


def command(api: Api, *words: str) -> str:
    settings = api.context.settings
    environment = {
        "HALFLAYER_DATABASE_URL": settings.resolved_database_url,
        "HALFLAYER_STORAGE_URL": settings.storage_url,
        "HALFLAYER_DATA_DIR": str(settings.data_dir),
        "COLUMNS": "300",
    }
    result = CliRunner().invoke(cli.app, ["cleanup", *words], env=environment)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("later")
def test_what_is_cut_off_is_found_shown_and_removed(api: Api) -> None:
    succeeded = api.add_run(RunState.SUCCEEDED, attempt=2)
    kept = put(api, f"{succeeded}/2/model.safetensors", named=True)
    lost = put(api, f"{succeeded}/1/model.safetensors")
    beside = put(api, f"{succeeded}/2/.partial", 10)
    queued = api.add_run(RunState.QUEUED, attempt=1)
    put(api, f"{queued}/1/model.safetensors", 200)
    upload = cut_off_upload(api)
    assert found(api) == {
        str(upload): (500, True),
        f"{succeeded}/1": (1000, True),
        f"{succeeded}/2": (10, True),
        f"{queued}/1": (200, True),
    }
    said = list(services.interrupted(api.context.settings, api.context.db))
    assert [finding.status for finding in said] == ["warning"]
    assert "4 interrupted uploads or results, 1.67 KiB" in said[0].detail
    assert said[0].remedy == "halflayer cleanup"

    shown = command(api, "--dry-run")
    assert f"{succeeded}/1" in shown
    assert "1.7 KiB would be removed" in shown
    assert upload.exists()
    assert "1.7 KiB removed" in command(api, "--yes")
    assert found(api) == {}
    assert not upload.exists()
    there = api.context.store.sizes()
    assert kept in there
    assert not there.keys() & {lost, beside}
    assert "Nothing to remove" in command(api, "--yes")


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.CANCELLING])
def test_an_attempt_that_its_run_is_in_is_never_touched(api: Api, state: RunState) -> None:
    run_id = api.add_run(state, attempt=2)
    put(api, f"{run_id}/2/model.safetensors")
    put(api, f"{run_id}/1/model.safetensors")
    assert list(found(api)) == [f"{run_id}/1"]


def test_what_was_written_lately_is_never_touched(api: Api) -> None:
    put(api, f"{api.add_run(RunState.FAILED, attempt=1)}/1/model.safetensors")
    cut_off_upload(api)
    assert found(api) == {}
    said = list(services.interrupted(api.context.settings, api.context.db))
    assert [finding.status for finding in said] == ["ok"]


def test_a_large_upload_is_given_the_time_that_its_check_may_take(api: Api) -> None:
    folder = cut_off_upload(api, 0)
    with open(folder / "upload", "wb") as file:
        file.truncate(2 << 30)
    for path in (folder / "upload", folder):
        os.utime(path, (time.time() - TWO_HOURS_S,) * 2)
    assert found(api) == {}


@pytest.mark.usefixtures("later")
def test_files_unknown_to_this_database_are_reported_and_kept(api: Api) -> None:
    """It may be the wrong database: a setting forgotten in this shell."""
    key = put(api, "strangerrun0/1/model.safetensors")
    upload = api.context.settings.uploads_dir / "strangerdata"
    upload.mkdir(parents=True)
    (upload / "data.txt").write_text("text")
    assert found(api) == {"strangerrun0/1": (1000, False), str(upload): (4, False)}
    (said,) = services.interrupted(api.context.settings, api.context.db)
    assert (said.status, "strangerrun0/1" in said.detail) == ("warning", True)
    assert "kept, not of a run" in command(api, "--yes")
    assert key in api.context.store.sizes()
    assert upload.exists()


def test_the_time_of_a_file_in_the_store_is_when_it_was_written(api: Api) -> None:
    key = put(api, "strangerrun0/1/x")
    written = datetime.fromtimestamp(api.context.store.written_s(key), UTC)
    assert abs((datetime.now(UTC) - written).total_seconds()) < 60
