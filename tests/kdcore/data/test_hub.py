"""The hub: loaded from when it answers, and given up on within seconds when it does not.

A small server of the hub's own HTTP interface stands in for the hub, which tests may not need.
Each case runs in a fresh process, because the hub's libraries read HF_ENDPOINT when imported.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

SHA = "0123456789abcdef0123456789abcdef01234567"
VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nking\n"
README = """---
configs:
- config_name: small
  data_files:
  - {split: train, path: train.jsonl}
  - {split: validation, path: valid.jsonl}
---
"""
FILES = {
    "datasets/team/prose": {
        "README.md": README,
        "train.jsonl": "".join(json.dumps({"text": t}) + "\n" for t in ("one", " ", "two")),
        "valid.jsonl": json.dumps({"text": "three"}) + "\n",
    },
    "models/team/words": {"vocab.txt": VOCABULARY, "tokenizer.py": "raise SystemExit('ran')"},
}
PROGRAM = """
import json, sys
from pathlib import Path
from kdcore.config import HubCorpus, HubTokenizer
from kdcore.data.corpora import open_corpus
from kdcore.data.tokenizers import load_tokenizer
from kdcore.errors import KdcoreError
from kdcore.events import ListSink

def dataset(name, split, column):
    config = HubCorpus(name=name, config="small", validation_split=split, column=column)
    corpus = open_corpus(config)
    documents = [list(corpus.documents(each)) for each in ("train", "validation")]
    return f"{documents} {corpus.size('train')} {corpus.fingerprint}"

def tokenizer(name):
    config = HubTokenizer(name=name)
    return str(load_tokenizer(config, None, Path("unused"), ListSink(), None).vocab_size)

def answer(what, *arguments):
    try:
        return {"dataset": dataset, "tokenizer": tokenizer}[what](*arguments)
    except KdcoreError as error:
        return f"{type(error).__name__} {error}"

print(json.dumps([answer(*question) for question in json.loads(sys.argv[1])]))
"""
PROSE = ("dataset", "team/prose", "validation", "text")
WORDS = ("tokenizer", "team/words")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as downloads need."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def reply(self, body: Any, status: int = 200, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def file_infos(self, repo: str) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(text.encode()), "oid": name}
            for name, text in FILES[repo].items()
        ]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size).decode()
        if path == "/":
            return self.reply("hub")
        if found := re.fullmatch(r"/api/((?:datasets|models)/\w+/\w+)(/.*)?", path):
            repo, rest = found[1], found[2] or ""
            if repo not in FILES:
                return self.reply({"error": "no"}, 404, X_Error_Code="RepoNotFound")
            if rest.startswith("/tree/"):
                return self.reply(self.file_infos(repo))
            if rest.startswith("/paths-info/"):
                infos = [i for i in self.file_infos(repo) if i["path"] in body]
                return self.reply(infos)
            siblings = [{"rfilename": name} for name in FILES[repo]]
            return self.reply({"id": repo.split("/", 1)[1], "sha": SHA, "siblings": siblings})
        if found := re.fullmatch(r"/(datasets/)?(\w+/\w+)/resolve/\w+/(.+)", path):
            repo = (found[1] or "models/") + found[2]
            text = FILES.get(repo, {}).get(found[3])
            if text is not None:
                return self.reply(text, ETag=f'"{found[3]}"', X_Repo_Commit=SHA)
            return self.reply("", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=SHA)
        return self.reply("", 404)

    do_HEAD = do_POST = do_GET  # noqa: N815


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(endpoint: str, home: Path, *questions: tuple[str, ...], **environment: str) -> list[str]:
    """The answers of a process of its own, with its caches in `home`, to one after the other."""
    started_s = time.monotonic()
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(questions)],
        env={
            "PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[3]),
            "HOME": str(home), "HF_HOME": str(home), "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*", **environment,
        },
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Imports take most of it; the hub's own clients would retry for minutes.
    assert time.monotonic() - started_s < 60
    answers: list[str] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_dataset_is_read_from_the_hub(hub: str, tmp_path: Path) -> None:
    answer, no_split, no_column = ask(
        hub,
        tmp_path,
        PROSE,
        ("dataset", "team/prose", "test", "text"),
        ("dataset", "team/prose", "validation", "body"),
    )
    assert answer.startswith("[['one', 'two'], ['three']] 3 ")
    assert "has no split 'test'; there are: train, validation" in no_split
    assert "has no column 'body' of text; there are: text" in no_column


def test_what_the_hub_lacks_is_refused(hub: str, tmp_path: Path) -> None:
    names = ("team/nothing", "json")
    questions = [("dataset", name, "validation", "text") for name in names]
    answers = ask(hub, tmp_path, *questions, ("tokenizer", "team/nothing"))
    assert len(answers) == 3
    assert all(answer.startswith("DataError") for answer in answers)


def test_tokenizer_is_read_from_the_hub_and_then_from_the_cache(hub: str, tmp_path: Path) -> None:
    assert ask(hub, tmp_path, WORDS) == ["7"]
    assert ask(hub, tmp_path, WORDS, HF_HUB_OFFLINE="1") == ["7"]


@pytest.mark.parametrize("how", ["refused", "silent", "offline"])
def test_unreachable_hub_is_given_up_on_with_advice(tmp_path: Path, how: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if how == "silent":
            listener.listen()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        offline = {"HF_HUB_OFFLINE": "1"} if how == "offline" else {}
        dataset, tokenizer = ask(endpoint, tmp_path, PROSE, WORDS, **offline)
    assert dataset.startswith("HubUnavailable the dataset 'team/prose' is on the HuggingFace hub")
    assert "Choose the offline sample, or upload the text as a file" in dataset
    assert tokenizer.startswith("HubUnavailable 'team/words' is on the HuggingFace hub")
    assert "Train a WordPiece tokenizer on the corpus" in tokenizer
    assert all("HF_ENDPOINT" in answer for answer in (dataset, tokenizer))
