"""Downloads: ranges, validators, archives; only what a run published, by its manifest's name."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from app.runs.artifacts import disposition, parse_range
from app.runs.models import Artifact
from app.runs.states import RunState
from app.runs.verified_reader import BLOCK_BYTES
from tests.app.conftest import Api

WEIGHTS = bytes(range(256)) * 9000
FILES = {
    "model.safetensors": WEIGHTS,
    "config.json": b'{"layers": 2}',
    "sub/dir/a.txt": b"",
}


@pytest.fixture
def run_id(api: Api, tmp_path: Path) -> str:
    """A run that succeeded and published three files."""
    run_id = api.add_run(RunState.SUCCEEDED)
    for path, data in FILES.items():
        (tmp_path / "local").write_bytes(data)
        key = f"{run_id}/1/{path}"
        api.context.store.put_file(tmp_path / "local", key)
        sha256 = hashlib.sha256(data).hexdigest()
        api.add(
            Artifact(
                run_id=run_id,
                path=path,
                attempt=1,
                size_bytes=len(data),
                sha256=sha256,
                storage_key=key,
            )
        )
    return run_id


def test_the_list_names_every_file_and_never_where_it_is_kept(api: Api, run_id: str) -> None:
    response = api.get(f"/runs/{run_id}/artifacts")
    body = response.json()
    assert [each["path"] for each in body["items"]] == sorted(FILES)
    assert body["total"] == 3
    assert "storage_key" not in response.text
    weights = body["items"][1]
    assert weights["size_bytes"] == len(WEIGHTS)
    assert weights["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()


@pytest.mark.parametrize("path", sorted(FILES))
def test_a_file_comes_whole_with_its_hash_as_etag(api: Api, run_id: str, path: str) -> None:
    response = api.get(f"/runs/{run_id}/artifacts/{path}")
    assert response.status_code == 200
    assert response.content == FILES[path]
    assert response.headers["etag"] == f'"{hashlib.sha256(FILES[path]).hexdigest()}"'
    assert response.headers["content-length"] == str(len(FILES[path]))
    assert response.headers["content-disposition"].startswith("attachment;")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=2303990-", 2303990, 2304000),
        ("bytes=-5", 2303995, 2304000),
        ("bytes=5-99999999", 5, 2304000),
        ("bytes=-99999999", 0, 2304000),
    ],
)
def test_a_range_gets_its_part(api: Api, run_id: str, header: str, start: int, end: int) -> None:
    url = f"/runs/{run_id}/artifacts/model.safetensors"
    response = api.get(url, headers={"range": header})
    assert response.status_code == 206
    assert response.content == WEIGHTS[start:end]
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{len(WEIGHTS)}"
    assert response.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("header", ["bytes=2304000-", "bytes=-0", f"bytes={'9' * 30}-"])
def test_a_range_beyond_the_end_is_416(api: Api, run_id: str, header: str) -> None:
    url = f"/runs/{run_id}/artifacts/model.safetensors"
    response = api.get(url, headers={"range": header})
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(WEIGHTS)}"


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "lines=1-2", "bytes=", "bytes=-", "bytes=9-3"])
def test_a_range_that_we_do_not_serve_gets_the_whole_file(
    api: Api, run_id: str, header: str
) -> None:
    response = api.get(f"/runs/{run_id}/artifacts/config.json", headers={"range": header})
    assert response.status_code == 200
    assert response.content == FILES["config.json"]


def test_who_has_the_file_gets_304(api: Api, run_id: str) -> None:
    url = f"/runs/{run_id}/artifacts/config.json"
    etag = api.get(url).headers["etag"]
    for header in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = api.get(url, headers={"if-none-match": header})
        assert response.status_code == 304
        assert response.content == b""
    assert api.get(url, headers={"if-none-match": '"other"'}).status_code == 200


def test_a_resumed_download_of_another_file_starts_over(api: Api, run_id: str) -> None:
    url = f"/runs/{run_id}/artifacts/config.json"
    headers = {"range": "bytes=1-", "if-range": '"other"'}
    assert api.get(url, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["nothing", "../1/config.json", "%2e%2e/config.json", "/etc/passwd", "config.json%00"],
)
def test_no_path_but_a_published_one_is_served(api: Api, run_id: str, path: str) -> None:
    response = api.get(f"/runs/{run_id}/artifacts/{path}")
    assert response.status_code == 404
    other = api.add_run(RunState.SUCCEEDED)
    assert api.get(f"/runs/{other}/artifacts/config.json").status_code == 404


def test_the_checkpoint_is_one_folder_in_a_stored_zip_of_known_length(
    api: Api, run_id: str
) -> None:
    response = api.get(f"/runs/{run_id}/checkpoint")
    assert response.status_code == 200
    assert response.headers["content-length"] == str(len(response.content))
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        folder = f"halflayer-{run_id}"
        assert {name: archive.read(name) for name in archive.namelist()} == {
            f"{folder}/{path}": data for path, data in FILES.items()
        }
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())


def test_a_run_without_files_has_no_checkpoint(api: Api) -> None:
    assert api.get(f"/runs/{api.add_run()}/checkpoint").status_code == 404


def stored(api: Api, run_id: str, path: str) -> Path:
    return api.context.settings.data_dir / "artifacts" / run_id / "1" / path


def flip(path: Path, position: int) -> None:
    """Turn one bit around, as a disk might."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"X" + data[1:], None])
def test_a_damaged_store_is_noticed_before_anything_is_sent(
    api: Api, run_id: str, change: Callable[[bytes], bytes] | None
) -> None:
    file = stored(api, run_id, "config.json")
    data = file.read_bytes()
    file.unlink()
    if change is not None:
        file.write_bytes(change(data))
    for url in (f"/runs/{run_id}/artifacts/config.json", f"/runs/{run_id}/checkpoint"):
        for headers in ({}, {"range": "bytes=5-6"}):
            response = api.get(url, headers=headers)
            assert response.status_code == 500
            assert response.json()["type"].endswith("damaged-file")
            assert "config.json" in response.json()["detail"]


@pytest.mark.parametrize("position", [0, BLOCK_BYTES, len(WEIGHTS) - 1])
@pytest.mark.parametrize("what", ["artifacts/model.safetensors", "checkpoint"])
def test_damage_after_the_first_download_breaks_the_second_and_is_explained_to_the_third(
    api: Api, run_id: str, position: int, what: str
) -> None:
    url = f"/runs/{run_id}/{what}"
    # Not whole answers: an archive says when it was made.
    assert WEIGHTS in api.get(url).content
    flip(stored(api, run_id, "model.safetensors"), position)
    assert WEIGHTS not in api.get(url).content
    third = api.get(url)
    assert third.status_code == 500
    assert "model.safetensors" in third.json()["detail"]
    flip(stored(api, run_id, "model.safetensors"), position)
    assert WEIGHTS in api.get(url).content


def test_a_part_is_checked_by_its_own_blocks(api: Api, run_id: str) -> None:
    url = f"/runs/{run_id}/artifacts/model.safetensors"
    assert api.get(url).status_code == 200
    flip(stored(api, run_id, "model.safetensors"), BLOCK_BYTES + 7)
    part = f"bytes={BLOCK_BYTES - 3}-{BLOCK_BYTES + 3}"
    before = api.get(url, headers={"range": f"bytes=0-{BLOCK_BYTES - 1}"})
    assert before.content == WEIGHTS[:BLOCK_BYTES]
    assert api.get(url, headers={"range": part}).content == WEIGHTS[BLOCK_BYTES - 3 : BLOCK_BYTES]


def test_a_name_cannot_break_out_of_its_header() -> None:
    header = disposition('a"; filename=evil\r\nx: y\\ä.bin')
    assert header.isascii()
    assert "\n" not in header
    assert "\r" not in header
    assert header.count('"') == 2


def test_ranges_of_an_empty_file() -> None:
    assert parse_range("bytes=0-", 0) == (0, 0)
    assert parse_range("bytes=-1", 0) == (0, 0)
