"""REST client of the command line; knows no database."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from httpx_sse import SSEError, connect_sse

from kdcore.files import sha256_of

Json = dict[str, Any]
FINAL_STATES = frozenset({"succeeded", "failed", "cancelled", "skipped"})
CHUNK_BYTES = 1024**2
RECONNECTS = 5
BUSY = (502, 503, 504)
"""From the server or a proxy; the same request may work soon."""
INTERRUPTED = (
    httpx.ReadError,
    httpx.ReadTimeout,
    httpx.WriteError,
    httpx.WriteTimeout,
    httpx.CloseError,
    httpx.RemoteProtocolError,
)
"""Errors after connecting: the request may have been executed."""
RESPONSE_LOST = (502, 504)
"""From a proxy: the forwarded request may have been executed."""


class ClientError(Exception):
    """An error as one line; `exit_code` is for scripts."""

    exit_code = 1


class Unreachable(ClientError):
    """The server is unreachable."""

    exit_code = 3


class NotAllowed(ClientError):
    """The token is missing, unknown, or not permitted to do this."""

    exit_code = 4


class Refused(ClientError):
    """The server refused the request."""

    exit_code = 5


class Busy(Refused):
    """The server is temporarily unavailable."""


class Damaged(ClientError):
    """A download differs from what the server announced."""

    exit_code = 6


def problem_line(response: httpx.Response) -> str:
    """The problem+json of a response as one line, with pointers into the submitted file."""
    try:
        problem = response.json()
        fields = [
            ": ".join(filter(None, (each["pointer"].removeprefix("/config"), each["detail"])))
            for each in problem.get("errors", [])
        ]
        return "; ".join(fields) or str(problem["detail"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{response.status_code} {response.reason_phrase}"


class Client:
    """Talks to one server with one API token."""

    def __init__(self, server: str, token: str) -> None:
        self.server = server.rstrip("/")
        # A server that trains on few cores may be slow; an unreachable one must be noticed soon.
        timeout = httpx.Timeout(60, connect=5)
        local = httpx.URL(self.server).host in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.Client(
            base_url=f"{self.server}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout,
            trust_env=not local,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _request(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        self._raise_for(response)
        return response.json() if response.content else None

    def _create(self, path: str, body: Json) -> Any:
        """Send a request that creates something; retried with the same Idempotency-Key."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        sent = False
        for attempt in range(RECONNECTS + 1):
            try:
                response = self._http.post(path, json=body, headers=headers)
                if attempt == RECONNECTS or response.status_code not in RESPONSE_LOST:
                    break
                sent = True
            except httpx.HTTPError as error:
                sent = sent or isinstance(error, INTERRUPTED)
                if not sent:
                    raise self._unreachable(error) from None
                if attempt == RECONNECTS:
                    raise Unreachable(
                        f"lost the connection to {self.server}; the request may have been "
                        f"executed: {error or type(error).__name__}"
                    ) from None
            time.sleep(min(2.0**attempt / 2, 10))
        self._raise_for(response)
        return response.json()

    def _unreachable(self, error: httpx.HTTPError) -> Unreachable:
        return Unreachable(f"no response from {self.server}: {error or type(error).__name__}")

    @staticmethod
    def _raise_for(response: httpx.Response) -> None:
        if response.is_success:
            return
        if not response.is_stream_consumed:
            response.read()
        line = problem_line(response)
        if response.status_code in (401, 403):
            raise NotAllowed(line)
        raise (Busy if response.status_code in BUSY else Refused)(line)

    def presets(self) -> list[Json]:
        """The presets."""
        items: list[Json] = self._request("GET", "/presets")["items"]
        return items

    def submit_run(self, config: Json, name: str | None = None) -> Json:
        """Submit a run."""
        run: Json = self._create("/runs", {"name": name, "config": config})
        return run

    def submit_pipeline(self, config: Json, name: str | None = None) -> list[Json]:
        """Submit a pipeline; returns teacher, prune and distill."""
        runs: list[Json] = self._create("/pipelines", {"name": name, "config": config})["runs"]
        return runs

    def runs(self, **filters: Any) -> Json:
        """One page of runs, newest first: `items` and `total`."""
        given = {key: value for key, value in filters.items() if value is not None}
        page: Json = self._request("GET", "/runs", params=given)
        return page

    def run(self, run_id: str) -> Json:
        """One run."""
        run: Json = self._request("GET", f"/runs/{quote(run_id, safe='')}")
        return run

    def cancel(self, run_id: str) -> Json:
        """Cancel a run."""
        run: Json = self._request("POST", f"/runs/{quote(run_id, safe='')}/cancel")
        return run

    def create_token(self, name: str, scope: str, kind: str, expires_days: float | None) -> Json:
        """A new token; its secret is in `token`."""
        body = {"name": name, "scope": scope, "kind": kind, "expires_days": expires_days}
        token: Json = self._create("/tokens", body)
        return token

    def tokens(self) -> list[Json]:
        """All valid tokens."""
        items: list[Json] = self._request("GET", "/tokens")["items"]
        return items

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token."""
        self._request("DELETE", f"/tokens/{quote(token_id, safe='')}")

    def events(self, run_id: str) -> Iterator[tuple[str, Json]]:
        """Events of a run as (event, data) until it has ended; reconnects after interruptions."""
        last_id = ""
        failures = 0
        while True:
            try:
                for event, data, event_id in self._stream(run_id, last_id):
                    failures = 0
                    last_id = event_id or last_id
                    yield event, data
                    if event == "end":
                        return
                error: Exception = ConnectionError("the stream was interrupted")
            except (httpx.HTTPError, SSEError, Busy) as caught:
                error = caught
            failures += 1
            if failures > RECONNECTS:
                raise Unreachable(f"lost the event stream of {self.server}: {error}")
            time.sleep(min(2.0**failures / 2, 10))

    def _stream(self, run_id: str, last_id: str) -> Iterator[tuple[str, Json, str]]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        path = f"/runs/{quote(run_id, safe='')}/events"
        # The server sends something every 15 s, so that a longer silence is a dead connection.
        timeout = httpx.Timeout(10, read=45)
        with connect_sse(self._http, "GET", path, headers=headers, timeout=timeout) as source:
            self._raise_for(source.response)
            for sent in source.iter_sse():
                yield sent.event, json.loads(sent.data or "{}"), sent.id

    def artifacts(self, run_id: str) -> list[Json]:
        """The files of a finished run."""
        items: list[Json] = self._request("GET", f"/runs/{quote(run_id, safe='')}/artifacts")[
            "items"
        ]
        return items

    def download(
        self, run_id: str, folder: Path, advance: Callable[[int], None] | None = None
    ) -> list[Path]:
        """Download all files of a run into `folder`, verified by SHA-256.

        A file gets its name once it is complete and verified; an interrupted download resumes from
        its `.part` file.
        """
        files = self.artifacts(run_id)
        if not files:
            state = self.run(run_id)["state"]
            raise Refused(f"run {run_id} has no files: it is {state}")
        return [self._download_file(run_id, each, folder, advance) for each in files]

    def _download_file(
        self, run_id: str, file: Json, folder: Path, advance: Callable[[int], None] | None
    ) -> Path:
        target: Path = folder / file["path"]
        # Paths from the server are not trusted.
        if not target.resolve().is_relative_to(folder.resolve()):
            raise Damaged(f"the server sent a path outside of the folder: {file['path']}")
        advance = advance or (lambda _bytes: None)
        if target.exists() and sha256_of(target) == file["sha256"]:
            advance(file["size_bytes"])
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        advance(_size(part))
        for attempt in range(RECONNECTS + 1):
            try:
                self._fetch(run_id, file, part, advance)
                break
            except httpx.HTTPError as error:
                if attempt == RECONNECTS:
                    raise self._unreachable(error) from None
                time.sleep(min(2.0**attempt / 2, 10))
        if sha256_of(part) != file["sha256"]:
            part.unlink()
            raise Damaged(f"{file['path']} is damaged (its SHA-256 differs); try again")
        part.replace(target)
        return target

    def _fetch(self, run_id: str, file: Json, part: Path, advance: Callable[[int], None]) -> None:
        have_bytes = _size(part)
        if have_bytes == file["size_bytes"] and sha256_of(part) == file["sha256"]:
            return
        if have_bytes >= file["size_bytes"]:
            part.unlink()
            advance(-have_bytes)
            have_bytes = 0
        headers = {"Accept-Encoding": "identity"}
        if have_bytes:
            headers["Range"] = f"bytes={have_bytes}-"
            headers["If-Range"] = f'"{file["sha256"]}"'
        url = f"/runs/{quote(run_id, safe='')}/artifacts/{quote(file['path'])}"
        with self._http.stream("GET", url, headers=headers) as response:
            self._raise_for(response)
            resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
            if not resumed:
                advance(-have_bytes)
            with open(part, "ab" if resumed else "wb") as out:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    out.write(chunk)
                    advance(len(chunk))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
