"""Who may do what; every route against every kind of credential."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.auth.dependencies import COOKIE
from app.auth.models import ApiToken, Scope
from tests.app.conftest import Api

SAME_ORIGIN = {"sec-fetch-site": "same-origin"}
PUBLIC = {"/healthz", "/readyz", "POST /api/v1/session", "/api/v1/openapi.json"}
SCOPE_OF: dict[str, Scope] = {
    "get_session": "read",
    "sign_out": "read",
    "list_tokens": "admin",
    "add_token": "admin",
    "revoke_token": "admin",
    "submit_run": "submit",
    "submit_pipeline": "submit",
    "change_run": "submit",
    "clean_up": "admin",
    "cancel_run": "submit",
    "delete_run": "submit",
    "upload_dataset": "submit",
    "delete_dataset": "submit",
}
SCOPES: list[Scope] = ["read", "submit", "admin"]


def operations(api: Api) -> Iterator[tuple[str, str, str]]:
    """Method, path and operation id of everything in the OpenAPI document."""
    for path, methods in api.app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation["operationId"]


def call(client: TestClient, method: str, path: str, headers: dict[str, str]) -> Any:
    filled = path.replace("{path}", "x")
    for name in ("run_id", "dataset_id", "token_id"):
        filled = filled.replace(f"{{{name}}}", "aaaaaaaaaaaa")
    return client.request(method, filled.replace("{kind}", "teacher"), headers=headers)


def test_every_route_against_every_credential(api: Api) -> None:
    good, expired = api.token(), api.token(expires=timedelta(seconds=-1))
    bad = ["hl_wrong", expired, api.token(kind="login"), api.token(kind="session"), ""]
    checked = 0
    for method, path, name in operations(api):
        if path in PUBLIC or f"{method} {path}" in PUBLIC:
            continue
        assert call(api.client, method, path, {}).status_code == 401, name
        for secret in bad:
            headers = {"Authorization": f"Bearer {secret}"}
            assert call(api.client, method, path, headers).status_code == 401, (name, secret)
        basic = {"Authorization": f"Basic {good}"}
        assert call(api.client, method, path, basic).status_code == 401, name
        needed = SCOPE_OF.get(name, "read")
        for scope in SCOPES:
            status = call(api.client, method, path, api.headers(scope)).status_code
            refused = SCOPES.index(scope) < SCOPES.index(needed)
            assert (status == 403) is refused, (name, scope, status)
            assert status < 500, (name, scope, status)
        checked += 1
    assert checked >= 25


def test_every_route_with_a_scope_is_documented(api: Api) -> None:
    documented = {name for _, _, name in operations(api)}
    assert set(SCOPE_OF) <= documented


def test_a_revoked_token_opens_nothing(api: Api) -> None:
    secret = api.token("read")
    headers = {"Authorization": f"Bearer {secret}"}
    assert api.client.get("/api/v1/runs", headers=headers).status_code == 200
    before = api.get("/tokens").json()["items"]
    token_id = next(each["id"] for each in before if each["scope"] == "read")
    assert api.request("DELETE", f"/tokens/{token_id}").status_code == 204
    assert api.client.get("/api/v1/runs", headers=headers).status_code == 401
    assert token_id not in [each["id"] for each in api.get("/tokens").json()["items"]]


def test_a_created_token_works_and_its_secret_is_stored_nowhere(api: Api) -> None:
    created = api.post("/tokens", {"name": "tool", "scope": "submit", "expires_days": 1})
    assert created.status_code == 201
    secret = created.json()["token"]
    assert secret.startswith("hl_")
    assert len(secret) >= 43
    headers = {"Authorization": f"Bearer {secret}"}
    assert api.client.get("/api/v1/session", headers=headers).json()["scope"] == "submit"
    listed = api.get("/tokens").text
    assert secret not in listed
    with api.context.db.read() as session:
        assert all(secret not in str(vars(row)) for row in session.query(ApiToken))


def sign_in(api: Api, scope: Scope = "admin", **headers: str) -> Any:
    body = {"token": api.token(scope, "login")}
    return api.client.post("/api/v1/session", json=body, headers=headers)


def test_a_sign_in_link_works_once_and_sets_a_hardened_cookie(api: Api) -> None:
    body = {"token": api.token("submit", "login")}
    response = api.client.post("/api/v1/session", json=body)
    assert response.json() == {"scope": "submit"}
    cookie = response.headers["set-cookie"].lower()
    for part in ("httponly", "samesite=strict", "path=/", "max-age="):
        assert part in cookie
    assert api.client.get("/api/v1/session").json()["scope"] == "submit"
    api.client.cookies.clear()
    assert api.client.post("/api/v1/session", json=body).status_code == 401


def test_an_api_token_is_no_sign_in_link(api: Api) -> None:
    body = {"token": api.token("admin", "api")}
    assert api.client.post("/api/v1/session", json=body).status_code == 401


def test_cookies_are_https_only_where_configured(make_api: Callable[..., Api]) -> None:
    assert "secure" in sign_in(make_api(secure_cookies=True)).headers["set-cookie"].lower()


def test_a_session_does_not_outlast_its_days(make_api: Callable[..., Api]) -> None:
    api = make_api(session_days=-1.0)
    response = sign_in(api)
    secret = response.headers["set-cookie"].partition("=")[2].partition(";")[0]
    headers = {"cookie": f"{COOKIE}={secret}"}
    assert api.client.get("/api/v1/session", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"origin": "http://127.0.0.1"}, True),
        ({}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://127.0.0.1:9999"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1"}, False),
    ],
)
def test_a_write_with_a_cookie_must_come_from_our_own_page(
    api: Api, headers: dict[str, str], allowed: bool
) -> None:
    sign_in(api)
    body = {"name": "x"}
    response = api.client.post("/api/v1/tokens", json=body, headers=headers)
    assert response.status_code == (201 if allowed else 403)


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"origin": "http://127.0.0.1"}, True),
        ({}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://127.0.0.1:9999"}, False),
    ],
)
def test_a_page_elsewhere_cannot_read_with_the_cookie(
    api: Api, headers: dict[str, str], allowed: bool
) -> None:
    sign_in(api)
    response = api.client.get("/api/v1/runs", headers=headers)
    assert response.status_code == (200 if allowed else 403)


def test_another_sites_page_cannot_sign_a_browser_in(api: Api) -> None:
    assert sign_in(api, **{"sec-fetch-site": "cross-site"}).status_code == 403
    assert sign_in(api, origin="http://evil.example").status_code == 403
    assert sign_in(api, **SAME_ORIGIN).status_code == 200


def test_signing_out_ends_the_session_on_the_server(api: Api) -> None:
    sign_in(api)
    secret = api.client.cookies[COOKIE]
    assert api.client.delete("/api/v1/session", headers=SAME_ORIGIN).status_code == 204
    headers = {"cookie": f"{COOKIE}={secret}"}
    assert api.client.get("/api/v1/session", headers=headers).status_code == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::2]:80"])
def test_other_host_names_are_refused(api: Api, host: str) -> None:
    for path in ("/healthz", "/", "/api/v1/runs"):
        response = api.client.get(path, headers={"host": host})
        assert response.status_code == 400
        assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "[::1]:8000", "127.0.0.1:1"])
def test_our_host_names_are_served(api: Api, host: str) -> None:
    assert api.client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/api/v1/runs", "/api/v1/nothing", "/assets/x"])
def test_every_response_carries_the_security_headers(api: Api, path: str) -> None:
    headers = api.client.get(path).headers
    policy = headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe-eval" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
