"""What `halflayer runs` reads from files, without a server."""

import json
from pathlib import Path

import pytest

from app.cli.client import Client, ClientError
from app.cli.runs import _load_config


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_config_is_read_with_or_without_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    config = {"kind": "teacher", "name": "zwölf"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config, ensure_ascii=False), encoding=encoding)
    # A file is read before any server is asked.
    assert _load_config(Client("http://127.0.0.1:1", "no token"), str(path)) == config


def test_what_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff{")
    with pytest.raises(ClientError, match=r"config\.json cannot be read"):
        _load_config(Client("http://127.0.0.1:1", "no token"), str(tmp_path / "config.json"))
