"""Printed links: where they lead, that the server answers there, and how many open something."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from app.auth.service import list_tokens
from app.cli.main import app as cli
from app.db import Database
from app.doctor import machine, services
from app.local.processes import Children
from app.local.stack import Stack
from app.local.state import LocalServer, note_server
from app.migrations import upgrade
from app.settings import Settings
from tests.app.conftest import Api


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8123"),
        ("0.0.0.0", "http://127.0.0.1:8123"),
        ("::", "http://[::1]:8123"),
        ("::1", "http://[::1]:8123"),
        ("192.0.2.7", "http://192.0.2.7:8123"),
        ("gpu1.lab", "http://gpu1.lab:8123"),
    ],
)
def test_without_a_public_url_links_lead_to_where_the_server_listens(
    make_api: Callable[..., Api], tmp_path: Path, host: str, url: str
) -> None:
    assert Settings(host=host, port=8123).local_url == url
    # And the server answers there, whichever of its addresses that is.
    api = make_api(host=host, port=8123)
    answer = api.client.get("/healthz", headers={"host": url.removeprefix("http://")})
    assert answer.status_code == 200


def test_the_host_of_the_public_url_is_allowed(make_api: Callable[..., Api]) -> None:
    api = make_api(public_url="https://halflayer.example", allowed_hosts=["localhost"])
    for host in ("halflayer.example", "halflayer.example:443", "HALFLAYER.example", "127.0.0.1"):
        assert api.client.get("/healthz", headers={"host": host}).status_code == 200, host
    for host in ("example", "evil.halflayer.example", "halflayer.example.evil"):
        assert api.client.get("/healthz", headers={"host": host}).status_code == 400, host


@pytest.mark.parametrize(
    "value",
    ["halflayer.example", "ftp://a.example", "https://a.example/path", "https://a.example?x",
     "https://me@a.example", "http://[::1", "http://a.example:99999"],
)  # fmt: skip
def test_a_public_url_is_scheme_host_and_port(value: str) -> None:
    with pytest.raises(ValidationError):
        Settings(public_url=value)
    assert Settings(public_url="https://a.example/").public_url == "https://a.example"
    assert Settings(public_url="").public_url == ""


def printed_link(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> str:
    """What `halflayer token create --login` prints with these settings."""
    for name, value in settings.items():
        monkeypatch.setenv(f"HALFLAYER_{name.upper()}", str(value))
    return CliRunner().invoke(cli, ["token", "create", "--login"], catch_exceptions=False).stdout


@pytest.mark.integration
def test_every_printed_link_leads_to_the_public_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, host="0.0.0.0", port=8123)
    upgrade(settings.resolved_database_url)
    given = {"data_dir": tmp_path, "host": "0.0.0.0", "port": 8123}
    assert printed_link(monkeypatch, **given).startswith("http://127.0.0.1:8123/login#token=")
    # The server that `halflayer up` runs here may have moved to another port.
    note_server(tmp_path, LocalServer(url="http://127.0.0.1:8124", pid=1))
    assert printed_link(monkeypatch).startswith("http://127.0.0.1:8124/login#token=")
    public = {"public_url": "https://halflayer.example"}
    assert printed_link(monkeypatch, **public).startswith("https://halflayer.example/login#token=")
    children = Children(tmp_path / "children.json", lambda _: None)
    try:
        stack = Stack(Settings(data_dir=tmp_path), "http://127.0.0.1:8124", "", children)
        assert stack.sign_in_link().startswith("https://halflayer.example/login#token=")
        assert stack.url == "http://127.0.0.1:8124"
    finally:
        children.stop()
    # However many were printed, the last one opens something.
    database = Database(settings.resolved_database_url)
    with database.read() as session:
        assert [row.kind for row in list_tokens(session)] == ["login"]
    database.close()


def test_the_doctor_asks_where_the_server_answers() -> None:
    """In a container the API listens on all addresses, and browsers come by another port."""
    inside = Settings(host="0.0.0.0", port=1, public_url="http://127.0.0.1:8123")
    (finding,), _ = services.api(inside)
    assert "http://127.0.0.1:1:" in finding.detail
    (finding,) = machine.inconsistent_settings(inside)
    assert finding.status == "ok"


def test_one_sign_in_link_of_a_name_at_a_time(api: Api) -> None:
    def link(name: str = "sign-in link") -> str:
        body = {"name": name, "scope": "admin", "kind": "login"}
        return str(api.post("/tokens", body).json()["token"])

    def sign_in(secret: str) -> int:
        return int(api.client.post("/api/v1/session", json={"token": secret}).status_code)

    first, other, tool = link(), link("for Ada"), api.token(expires=timedelta(days=1))
    second = link()
    with api.context.db.read() as session:
        assert sum(row.kind == "login" for row in list_tokens(session)) == 2
    assert [sign_in(each) for each in (first, second, other)] == [401, 200, 200]
    # What signed in stays signed in, and tools keep their tokens.
    link()
    assert api.client.get("/api/v1/session").status_code == 200
    assert api.client.get("/api/v1/runs", headers={"Authorization": f"Bearer {tool}"}).is_success
