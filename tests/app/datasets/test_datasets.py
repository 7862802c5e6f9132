"""Uploads: streamed to disk, checked, refused in words; nothing is left of what was refused."""

import io
import json
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from app.datasets.models import Dataset
from app.datasets.service import dataset_path
from app.runs.states import RunState
from faults.small_disk import MIB, small_disk
from kdcore.config import TeacherConfig, UploadCorpus
from tests.app.conftest import Api

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = "\n".join([*SPECIAL, "word"]).encode()


def tokenizer_json(tokens: list[str]) -> bytes:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=tokens[0]))
    text: str = tokenizer.to_str()
    return text.encode()


def parquet() -> bytes:
    buffer = io.BytesIO()
    table = pyarrow.table({"text": ["one", "two", "three"], "number": [1, 2, 3]})
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def upload(api: Api, filename: str, data: bytes, **fields: str) -> Any:
    return api.request("POST", "/datasets", files={"file": (filename, data)}, data=fields)


def leftovers(api: Api) -> list[str]:
    folder = api.context.settings.uploads_dir
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


@pytest.mark.integration
@pytest.mark.parametrize(
    ("filename", "data", "format", "documents", "columns"),
    [
        ("a.txt", b"one\n\ntwo\nthree\n", "txt", 3, []),
        ("A.TXT", "zwölf\r\nßig".encode(), "txt", 2, []),
        ("a.jsonl", b'{"text": "x", "n": 1}\n{"text": "y", "n": 2}\n', "jsonl", 2, ["text"]),
        ("a.csv", b"text,label\nhello,pos\nbye,neg\n", "csv", 2, ["text", "label"]),
        ("a.parquet", parquet(), "parquet", 3, ["text"]),
    ],
)
def test_texts_are_kept_as_they_were_sent(
    api: Api, filename: str, data: bytes, format: str, documents: int, columns: list[str]
) -> None:
    response = upload(api, filename, data)
    assert response.status_code == 201, response.text
    body = response.json()
    assert body["format"] == format
    assert body["name"] == filename
    assert body["documents"] == documents
    assert body["columns"] == columns
    assert body["size_bytes"] == len(data)
    with api.context.db.read() as session:
        dataset = session.get(Dataset, body["id"])
        assert dataset is not None
        path = dataset_path(api.context.settings, dataset)
    assert path.name == f"data.{format}"
    assert path.read_bytes() == data
    assert leftovers(api) == [body["id"]]
    assert api.get(f"/datasets/{body['id']}").json() == body


@pytest.mark.integration
@pytest.mark.parametrize(
    ("filename", "data", "stored"),
    [
        ("tokenizer.json", tokenizer_json(SPECIAL), "tokenizer.json"),
        ("vocab.txt", VOCAB, "vocab.txt"),
        ("my vocabulary.txt", VOCAB + b"\n", "vocab.txt"),
    ],
)
def test_tokenizers_are_kept_under_the_name_that_loads(
    api: Api, filename: str, data: bytes, stored: str
) -> None:
    response = upload(api, filename, data, kind="tokenizer", name="mine")
    assert response.status_code == 201, response.text
    body = response.json()
    assert body["kind"] == "tokenizer"
    assert body["documents"] is None
    assert body["name"] == "mine"
    assert (api.context.settings.uploads_dir / body["id"] / stored).read_bytes() == data


@pytest.mark.integration
@pytest.mark.parametrize(
    ("filename", "data", "fields", "status", "words"),
    [
        ("a.txt", b"", {}, 422, "empty"),
        ("a.txt", b"  \n\n", {}, 422, "empty"),
        ("a.txt", b"text\x00with nul", {}, 415, "binary"),
        ("a.txt", b"good line\nbad \xff\xfe line\n", {}, 422, "UTF-8"),
        ("a.exe", b"MZ", {}, 415, ".parquet"),
        ("noending", b"x", {}, 415, "nothing"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', {}, 422, "line 2"),
        ("a.jsonl", b'{"n": 1}\n', {}, 422, "line 1: no text"),
        ("a.parquet", b"PAR1 not really", {}, 422, "Parquet"),
        ("a.csv", b'text\n"never closed\n', {}, 422, "CSV"),
        ("tokenizer.json", b"{}", {"kind": "tokenizer"}, 422, "holds no tokenizer"),
        ("tokenizer.json", b"\xff", {"kind": "tokenizer"}, 422, "UTF-8"),
        (
            "tokenizer.json",
            tokenizer_json(["[UNK]", "a"]),
            {"kind": "tokenizer"},
            422,
            "[MASK]",
        ),
        ("vocab.txt", b"one\ntwo\n", {"kind": "tokenizer"}, 422, "[MASK]"),
        ("vocab.txt", VOCAB + b"\nword", {"kind": "tokenizer"}, 422, "twice"),
        ("a.csv", b"x", {"kind": "tokenizer"}, 415, "ends in"),
        ("a.txt", b"x", {"kind": "picture"}, 422, "kind"),
        ("a.txt", b"x", {"name": "a\tb"}, 422, "name"),
        ("a.txt", b"x", {"name": "x" * 5000}, 422, "too long"),
    ],
)
def test_an_unusable_upload_is_refused_with_a_message_and_leaves_nothing(
    api: Api, filename: str, data: bytes, fields: dict[str, str], status: int, words: str
) -> None:
    response = upload(api, filename, data, **fields)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert words in response.text
    assert leftovers(api) == []
    assert api.get("/datasets").json()["total"] == 0


def test_a_file_beyond_the_limit_is_413(make_api: Callable[..., Api]) -> None:
    api = make_api(max_upload_bytes=100_000)
    assert upload(api, "a.txt", b"x" * 100_001).status_code == 413
    assert upload(api, "a.txt", b"x" * 1_000_000).status_code == 413
    assert leftovers(api) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="other"; filename="a.txt"\r\n\r\nx\r\n--b--',
        b"--b\r\n\r\n--b\r\n\r\n--b--",
        b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n' + b"\r\n--b\r\n\r\n" * 50,
    ],
)
def test_a_malformed_form_is_refused(api: Api, body: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = api.request("POST", "/datasets", content=body, headers=headers)
    assert response.status_code in (400, 415, 422)
    assert response.headers["content-type"] == "application/problem+json"
    assert leftovers(api) == []


@pytest.mark.parametrize("name", ["../../../evil.txt", "..\\..\\evil.txt", "/etc/passwd.txt"])
def test_the_clients_file_name_is_never_a_path(api: Api, name: str) -> None:
    body = upload(api, name, b"text\n").json()
    assert "/" not in body["name"]
    assert "\\" not in body["name"]
    stored = list(api.context.settings.data_dir.parent.rglob("*evil*"))
    assert stored == []


def test_lists_are_newest_first_and_by_kind(api_everywhere: Api) -> None:
    api = api_everywhere
    ids = [upload(api, f"{number}.txt", b"text\n").json()["id"] for number in range(3)]
    upload(api, "vocab.txt", VOCAB, kind="tokenizer")
    body = api.get("/datasets?kind=text").json()
    assert [each["id"] for each in body["items"]] == ids[::-1]
    assert body["total"] == 3
    page = api.get("/datasets?limit=1&offset=1").json()
    assert [each["id"] for each in page["items"]] == [ids[2]]
    assert page["total"] == 4


def test_a_dataset_in_use_stays_until_its_run_has_ended(api_everywhere: Api) -> None:
    api = api_everywhere
    dataset_id = upload(api, "a.txt", b"text\n").json()["id"]
    config = TeacherConfig(corpus=UploadCorpus(dataset_id=dataset_id)).model_dump(mode="json")
    api.add_run(RunState.SUCCEEDED, config=config)
    run_id = api.add_run(RunState.QUEUED, config=config)
    response = api.request("DELETE", f"/datasets/{dataset_id}")
    assert response.status_code == 409
    assert run_id in response.json()["detail"]
    assert leftovers(api) == [dataset_id]
    assert api.post(f"/runs/{run_id}/cancel").status_code == 200
    assert api.request("DELETE", f"/datasets/{dataset_id}").status_code == 204
    assert leftovers(api) == []
    assert api.get(f"/datasets/{dataset_id}").status_code == 404


def test_column_names_beyond_the_row_are_left_out(api: Api) -> None:
    names = [f"column number {number:04}" for number in range(200)]
    line = json.dumps(dict.fromkeys(names, "x")).encode()
    body = upload(api, "a.jsonl", line)
    assert body.status_code == 201, body.text
    assert body.json()["columns"] == names[: len(body.json()["columns"])]


@pytest.mark.integration
def test_a_disk_that_fills_up_during_an_upload_is_reported_and_nothing_stays(api: Api) -> None:
    def body() -> Iterator[bytes]:
        yield b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        for _ in range(70):
            yield b"a line.\n" * (MIB // 8)
        yield b"\r\n--edge--\r\n"

    def upload() -> Any:
        headers = {"content-type": "multipart/form-data; boundary=edge"}
        return api.request("POST", "/datasets", content=body(), headers=headers)

    with small_disk(api.context.settings.uploads_dir, 65 * MIB) as disk:
        response = upload()
        assert response.status_code == 507
        assert "bytes have arrived" in response.json()["detail"]
        assert list(disk.folder.iterdir()) == []
        disk.fill()
        response = upload()
        assert response.status_code == 507
        assert "0 bytes free" in response.json()["detail"]


def test_files_stay_where_the_answer_to_the_commit_is_lost(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row may be there: without its files it would be a dataset that no run can read."""
    headers = api.headers()
    dialect = api.context.db.engine.dialect
    commit = dialect.do_commit

    def lose_the_answer(connection: Any) -> None:
        commit(connection)
        raise sqlite3.OperationalError("the connection is gone")

    with monkeypatch.context() as patch:
        patch.setattr(dialect, "do_commit", lose_the_answer)
        files = {"file": ("a.txt", b"one\ntwo\n")}
        answer = api.client.post("/api/v1/datasets", headers=headers, files=files)
        assert answer.status_code == 503
    [kept] = api.get("/datasets").json()["items"]
    with api.context.db.read() as session:
        dataset = session.get_one(Dataset, kept["id"])
        assert dataset_path(api.context.settings, dataset).read_bytes() == b"one\ntwo\n"
