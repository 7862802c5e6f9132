"""A store that hosts share instead of a data folder: uploads, downloads, and what if it is away."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from app.runs.models import Artifact
from app.runs.states import RunState
from app.settings import Settings
from app.storage import Store
from tests.app.conftest import Api
from tests.fixtures.orphan_guard import OrphanGuard
from tests.fixtures.s3 import S3Server, running_s3

WEIGHTS = bytes(range(256)) * 40_000


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory, _tether: OrphanGuard) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        _tether.hold(server.process.pid)
        yield server


@pytest.fixture
def s3(_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A real S3 server, which this process may use."""
    for name, value in _server.environment().items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    return _server


@pytest.fixture
def api(make_api: Callable[..., Api], s3: S3Server, tmp_path: Path) -> Api:
    return make_api(storage_url=f"{s3.url}/{tmp_path.name}")


def publish(api: Api, tmp_path: Path) -> str:
    run_id = api.add_run(RunState.SUCCEEDED)
    (tmp_path / "local").write_bytes(WEIGHTS)
    key = f"{run_id}/1/model.safetensors"
    api.context.store.put_file(tmp_path / "local", key)
    api.add(
        Artifact(
            run_id=run_id,
            path="model.safetensors",
            attempt=1,
            size_bytes=len(WEIGHTS),
            sha256=hashlib.sha256(WEIGHTS).hexdigest(),
            storage_key=key,
        )
    )
    return run_id


def test_files_come_whole_in_parts_or_not_at_all_if_they_are_known(
    api: Api, tmp_path: Path
) -> None:
    path = f"/runs/{publish(api, tmp_path)}/artifacts/model.safetensors"
    whole = api.get(path)
    assert whole.content == WEIGHTS
    part = api.get(path, headers={"Range": "bytes=9000000-9000099"})
    assert (part.status_code, part.content) == (206, WEIGHTS[9_000_000:9_000_100])
    assert part.headers["content-range"] == f"bytes 9000000-9000099/{len(WEIGHTS)}"
    known = api.get(path, headers={"If-None-Match": whole.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")


def test_an_archive_is_made_of_what_the_store_has(api: Api, tmp_path: Path) -> None:
    run_id = publish(api, tmp_path)
    response = api.get(f"/runs/{run_id}/checkpoint")
    assert response.status_code == 200, response.text
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.read(f"halflayer-{run_id}/model.safetensors") == WEIGHTS


def test_an_upload_lies_in_the_store_alone_and_goes_with_its_dataset(
    api: Api, tmp_path: Path
) -> None:
    text = b"a line of text\n" * 200
    uploaded = api.request("POST", "/datasets", files={"file": ("a.txt", text)})
    assert uploaded.status_code == 201, uploaded.text
    dataset_id = uploaded.json()["id"]
    store, uploads = api.context.store, api.context.settings.uploads_dir
    assert store.keys("uploads") == [f"uploads/{dataset_id}/data.txt"]
    assert list(uploads.iterdir()) == []
    store.fetch(f"uploads/{dataset_id}/data.txt", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == text
    assert api.request("DELETE", f"/datasets/{dataset_id}").status_code == 204
    assert store.keys("uploads") == []


def test_a_deleted_run_leaves_nothing_in_the_store(api: Api, tmp_path: Path) -> None:
    run_id = publish(api, tmp_path)
    api.context.store.put_file(tmp_path / "local", f"work/{run_id}/1/step-1/mirror.json")
    assert api.request("DELETE", f"/runs/{run_id}").status_code == 204
    assert api.context.store.names("work") == []
    with pytest.raises(FileNotFoundError):
        api.context.store.size(f"{run_id}/1/model.safetensors")


def test_what_another_process_puts_or_removes_is_seen_at_once(
    s3: S3Server, sqlite_settings: Settings, tmp_path: Path
) -> None:
    settings = sqlite_settings.model_copy(update={"storage_url": f"{s3.url}/{tmp_path.name}"})
    ours, theirs = Store(settings), Store(settings)
    (tmp_path / "file").write_bytes(b"x")
    assert ours.keys("work") == []
    theirs.put_file(tmp_path / "file", "work/a/1")
    assert ours.keys("work") == ["work/a/1"]
    assert ours.names("work") == ["a"]
    theirs.delete_prefix("work/a")
    assert ours.keys("work") == ours.names("work") == []


def test_an_unavailable_store_is_503_with_a_message(
    make_api: Callable[..., Api],
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name, value in s3.environment(port=1).items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # it would go on at the address that it knows
    api = make_api(storage_url=f"{s3.url}/{tmp_path.name}")
    run_id = api.add_run(RunState.SUCCEEDED)
    file = {"path": "a.json", "attempt": 1, "size_bytes": 1, "sha256": "0" * 64}
    api.add(Artifact(run_id=run_id, storage_key=f"{run_id}/1/a.json", **file))
    download = api.get(f"/runs/{run_id}/artifacts/a.json")
    upload = api.request("POST", "/datasets", files={"file": ("a.txt", b"some text\n" * 99)})
    for response in (download, upload):
        assert response.status_code == 503, response.text
        assert "file store" in response.json()["detail"]
        assert "retry-after" in response.headers
    assert api.get("/datasets").json()["total"] == 0
