"""What the API takes from clients that send too much, too slowly, or what two would read in two
ways: raw sockets against the real server."""

import json
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from app.settings import Settings
from app.web.connections import Connections
from faults.installation import wait_for
from kdcore.presets import preset
from tests.fixtures.served import Served, served_settings, serving

pytestmark = pytest.mark.integration

SESSION_TOKEN = b'{"token": "x"}'
Serve = Callable[..., Served]


@pytest.fixture
def serve(sqlite_settings: Settings, tmp_path: Path) -> Iterator[Serve]:
    """Starts servers that end with the test."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(
            serving(sqlite_settings, tmp_path / "api.log", **changes)
        )


@contextmanager
def _shared(folder: Path, **changes: str) -> Iterator[Served]:
    with serving(served_settings(folder), folder / "api.log", **changes) as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests that change no setting and leave nothing behind."""
    with _shared(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that waits half a second for whatever it waits for."""
    names = ("HEADER", "BODY", "UPLOAD")
    changes = {f"HALFLAYER_{name}_TIMEOUT_S": "0.5" for name in names}
    with _shared(tmp_path_factory.mktemp("impatient"), **changes) as running:
        yield running


@contextmanager
def sent(served: Served, data: bytes, address: str = "") -> Iterator[socket.socket]:
    """A connection on which these bytes were sent, and no more."""
    with socket.create_connection(
        ("127.0.0.1", served.port), timeout=20, source_address=(address, 0) if address else None
    ) as link:
        link.sendall(data)
        yield link


def answer(link: socket.socket) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of the next response."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += link.recv(1 << 16)
    head, _, rest = got.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
    while len(rest) < int(headers["content-length"]):
        rest += link.recv(1 << 16)
    return int(first.split()[1]), headers, rest.decode()


def until_closed(link: socket.socket) -> bytes:
    """All that comes until the server hangs up."""
    got = b""
    while data := link.recv(1 << 16):
        got += data
    return got


def head(method: str, path: str, **headers: str) -> bytes:
    """A request's head; the body, if one is announced, is left to the caller."""
    named = {"Host": "127.0.0.1"} | {name.replace("_", "-"): each for name, each in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


JSON = "application/json"


@pytest.mark.parametrize(
    ("scope", "method", "path", "content_type", "length", "status"),
    [
        (None, "POST", "/api/v1/runs", JSON, 2_000_000, 401),
        ("read", "POST", "/api/v1/runs", JSON, 2_000_000, 403),
        ("submit", "POST", "/api/v1/tokens", JSON, 2_000_000, 403),
        ("submit", "POST", "/api/v1/nothing", JSON, 2_000_000, 404),
        ("submit", "PUT", "/api/v1/datasets", JSON, 2_000_000, 405),
        ("submit", "POST", "/api/v1/runs", JSON, 20_000_000, 413),
        ("submit", "POST", "/api/v1/datasets", "multipart/form-data; boundary=b", 10**11, 413),
        (None, "POST", "/api/v1/session", JSON, 5_000, 413),
        ("submit", "POST", "/api/v1/runs", "text/plain", 2_000_000, 415),
        ("submit", "POST", "/api/v1/datasets", JSON, 2_000_000, 415),
    ],
)
def test_headers_are_judged_before_the_body_arrives(
    served: Served,
    scope: str | None,
    method: str,
    path: str,
    content_type: str,
    length: int,
    status: int,
) -> None:
    headers = {"Content_Type": content_type, "Content_Length": str(length)}
    if scope:
        headers["Authorization"] = f"Bearer {served.token(scope)}"  # type: ignore[arg-type]
    with sent(served, head(method, path, **headers)) as link:
        found, got, body = answer(link)
    assert found == status
    assert got["connection"] == "close"
    assert got["content-type"] == "application/problem+json"
    assert json.loads(body)["status"] == status
    if status == 405:
        assert got["allow"] == "GET, HEAD, POST"


def test_a_refused_client_is_disconnected(served: Served) -> None:
    with sent(served, head("POST", "/api/v1/runs", Content_Length="1500000")) as link:
        assert until_closed(link).startswith(b"HTTP/1.1 401 ")


def test_a_refused_client_may_send_on_for_a_moment_and_reads_why(served: Served) -> None:
    with sent(served, head("POST", "/api/v1/runs", Content_Length="1500000")) as link:
        link.sendall(b"x" * 1_500_000)  # a server that closes at once would reset the connection
        assert answer(link)[0] == 401


@pytest.mark.parametrize("path", ["/api/v1/runs", "/api/v1/datasets"])
def test_a_body_that_does_not_go_on_is_408(impatient: Served, path: str) -> None:
    kind = JSON if path.endswith("runs") else "multipart/form-data; boundary=b"
    secret = impatient.token("submit")
    begun = head(
        "POST", path, Authorization=f"Bearer {secret}", Content_Type=kind, Content_Length="1000"
    )
    with sent(impatient, begun + b"--b\r\n") as link:
        status, headers, _ = answer(link)
    assert (status, headers["connection"]) == (408, "close")
    uploads = impatient.log.parent / "uploads"
    assert not uploads.exists() or not list(uploads.iterdir())


def test_a_body_that_trickles_is_408(impatient: Served) -> None:
    begun = head(
        "POST",
        "/api/v1/runs",
        Authorization=f"Bearer {impatient.token('submit')}",
        Content_Type=JSON,
        Content_Length="1000",
    )
    with sent(impatient, begun) as link:
        link.settimeout(0.1)
        for _ in range(200):
            link.sendall(b" ")
            try:
                got = link.recv(100)
                break
            except TimeoutError:
                continue
    assert got.startswith(b"HTTP/1.1 408 ")


def test_one_token_cannot_fill_the_memory_for_bodies(serve: Serve) -> None:
    served = serve(
        HALFLAYER_MAX_BODY_BYTES="1000000",
        HALFLAYER_MAX_HELD_BODY_BYTES="1900000",
        HALFLAYER_BODY_TIMEOUT_S="60",
    )

    def refused(*secrets: str) -> set[str]:
        """What is said to those, of several clients that send most of a body, who find no room."""
        with ExitStack() as stack:
            links = []
            for secret in secrets:
                begun = head(
                    "POST",
                    "/api/v1/runs",
                    Authorization=f"Bearer {secret}",
                    Content_Type=JSON,
                    Content_Length="1000000",
                )
                links.append(stack.enter_context(sent(served, begun + b" " * 900_000)))
            answered, _, _ = select.select(links, [], [], 20)
            answers = [answer(link) for link in answered]
        assert {(status, headers["retry-after"]) for status, headers, _ in answers} == {(503, "5")}
        return {
            json.loads(body)["detail"].split(" holds")[0].split(" has")[0] for *_, body in answers
        }

    one, two, three = (served.token("submit") for _ in range(3))
    assert refused(one, one) == {"This client"}
    # Once the server has seen them go, what they held is free.
    wait_for(lambda: refused(one, one) == {"This client"}, 20, "the bytes that were held")
    wait_for(lambda: refused(one, two, three) == {"This server"}, 20, "the bytes that were held")


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_a_connection_without_a_whole_request_is_closed(impatient: Served, begun: bytes) -> None:
    with sent(impatient, begun) as link:
        if begun:
            assert answer(link)[0] == 408
        else:
            assert link.recv(1) == b""
    # The same for the second request on a connection.
    with sent(impatient, head("GET", "/healthz") + begun) as link:
        assert answer(link)[0] == 200
        assert until_closed(link).startswith(b"HTTP/1.1 408 " if begun else b"")


def test_a_client_that_does_not_read_is_disconnected(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    with open(tmp_path / "assets" / "large.js", "wb") as file:
        file.truncate(100_000_000)
    served = serve(HALFLAYER_FRONTEND_DIR=str(tmp_path), HALFLAYER_WRITE_TIMEOUT_S="0.5")
    server = psutil.Process(served.process.pid)
    with sent(served, head("GET", "/assets/large.js")) as link:
        port = link.getsockname()[1]
        wait_for(lambda: _has_connection(server, port), 20, "the connection")
        wait_for(lambda: not _has_connection(server, port), 20, "its end")


def _has_connection(server: psutil.Process, port: int) -> bool:
    return any(each.raddr and each.raddr.port == port for each in server.net_connections("tcp4"))


def _upload(served: Served, length: int) -> bytes:
    """The head of an upload; the server says 100 once it takes the body."""
    return head(
        "POST",
        "/api/v1/datasets",
        Authorization=f"Bearer {served.token('submit')}",
        Content_Type="multipart/form-data; boundary=b",
        Content_Length=str(length),
        Expect="100-continue",
    )


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\na\n\r\n--b--\r\n'
)


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /api/v1/runs HTTP/1.1\r\n",
        head("POST", "/api/v1/session", Content_Type=JSON, Content_Length="14"),
    ],
)
def test_half_sent_requests_leave_room_for_whole_ones(serve: Serve, begun: bytes) -> None:
    served = serve(open_files=256, HALFLAYER_HEADER_TIMEOUT_S="600", HALFLAYER_BODY_TIMEOUT_S="600")
    with ExitStack() as held:
        upload = held.enter_context(sent(served, _upload(served, len(FORM))))
        assert upload.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        for _ in range(300):
            held.enter_context(sent(served, begun))
        url, headers = f"http://127.0.0.1:{served.port}", served.client.headers
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        runs = httpx.get(f"{url}/api/v1/runs", headers=headers, trust_env=False)
        assert runs.status_code == 200
        upload.sendall(FORM)  # it has held its place
        assert answer(upload)[0] == 201
    log = served.log.read_text()
    assert "Traceback" not in log
    assert 1 <= log.count("closed an unauthenticated connection") <= 60


def test_an_address_with_all_its_connections_in_use_gets_503_and_others_are_served(
    serve: Serve,
) -> None:
    served = serve(HALFLAYER_MAX_CONNECTIONS_PER_ADDRESS="4", HALFLAYER_UPLOAD_TIMEOUT_S="600")
    request = head("GET", "/healthz")
    with ExitStack() as held:
        for _ in range(4):
            link = held.enter_context(sent(served, _upload(served, len(FORM)), "127.0.0.2"))
            assert link.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        with sent(served, request, "127.0.0.2") as another:
            status, headers, _ = answer(another)
            assert (status, headers["retry-after"]) == (503, "5")
        with sent(served, request, "127.0.0.3") as another:
            assert answer(another)[0] == 200
        link.sendall(FORM)
        assert answer(link)[0] == 201
        link.close()
        with sent(served, request, "127.0.0.2") as another:
            assert answer(another)[0] == 200


CHUNKED = b"0\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\nX: y\r\ncontent-length : 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -5\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
    ],
)
def test_a_body_of_two_lengths_is_refused(served: Served, lines: bytes) -> None:
    request = b"POST /api/v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\n" + lines + b"\r\n" + CHUNKED
    with sent(served, request) as link:
        status, headers, body = answer(link)
    assert (status, headers["connection"]) == (400, "close")
    assert json.loads(body)["status"] == 400
    # As the second request of a connection, too.
    with sent(served, head("GET", "/healthz")) as link:
        assert answer(link)[0] == 200
        link.sendall(request)
        assert until_closed(link).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "host",
    [
        "[::1].evil.com",
        "127.0.0.1:9610@evil.com",
        "127.0.0.1@evil.com",
        "",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:port",
        "127.0.0.1:80:80",
        "[::1",
        "::1",
        "[::1]80",
        "[127.0.0.1]",
        "127.0.0.1/",
        "127.0.0.1, evil.com",
        "127.0.0.1 evil.com",
        "127.0.0.1%00",
        "http://127.0.0.1",
    ],
)
def test_an_invalid_host_is_400(served: Served, host: str) -> None:
    for path in ("/healthz", "/", "/api/v1/runs"):
        with sent(served, head("GET", path, Host=host, Connection="close")) as link:
            assert answer(link)[0] == 400


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://[::1", 400),
        ("http://[::1].evil.com", 400),
        ("http://127.0.0.1:port", 400),
        ("http://127.0.0.1@evil.com", 400),
        ("http://127.0.0.1/", 400),
        ("127.0.0.1", 400),
        ("", 400),
        ("http://127.0.0.1, http://evil.com", 400),
        ("http://127.0.0.1\r\nOrigin: http://evil.com", 400),
        ("null", 403),
        ("http://evil.com", 403),
        ("chrome-extension://abcdefgh", 403),
        ("http://127.0.0.1", 401),
        ("https://127.0.0.1", 401),
    ],
)
def test_an_invalid_origin_is_400_and_a_foreign_one_403(
    served: Served, origin: str, status: int
) -> None:
    request = head(
        "POST",
        "/api/v1/session",
        Origin=origin,
        Content_Type=JSON,
        Content_Length=str(len(SESSION_TOKEN)),
        Connection="close",
    )
    with sent(served, request + SESSION_TOKEN) as link:
        assert answer(link)[0] == status


def test_an_upload_that_its_client_gives_up_is_one_line_in_the_log(serve: Serve) -> None:
    served = serve()
    for path, kind in (("datasets", "multipart/form-data; boundary=b"), ("runs", JSON)):
        begun = head(
            "POST",
            f"/api/v1/{path}",
            Authorization=f"Bearer {served.token('submit')}",
            Content_Type=kind,
            Content_Length="1000",
        )
        line = f"POST /api/v1/{path} 0 "
        with sent(served, begun + b"--b\r\n"):
            time.sleep(0.2)  # a body that was never asked for would show less
        wait_for(lambda line=line: line in served.log.read_text(), 20, "the line")
        assert served.log.read_text().count(line) == 1
    log = served.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log


def test_a_stream_whose_client_leaves_at_once_is_no_error(serve: Serve) -> None:
    served = serve()
    body = {"config": preset("small-teacher").config.model_dump(mode="json")}
    run_id = served.client.post("/api/v1/runs", json=body).json()["id"]
    path = f"/api/v1/runs/{run_id}/events"
    request = head("GET", path, Authorization=f"Bearer {served.token('read')}")
    for _ in range(30):
        with sent(served, request) as link:  # cut by a reset, while the server looks for the run
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: served.log.read_text().count(path) >= 30, 20, "the lines of the requests")
    assert "Traceback" not in served.log.read_text()


def test_uploads_beyond_those_that_fit_get_503(serve: Serve) -> None:
    served = serve(HALFLAYER_MAX_UPLOADS="2")
    mine = {"Authorization": f"Bearer {served.token('submit')}"}
    begun = head(
        "POST",
        "/api/v1/datasets",
        **mine,
        Content_Type="multipart/form-data; boundary=b",
        Content_Length="1000",
        Expect="100-continue",
    )
    file = {"file": ("a.txt", b"one\n")}
    with sent(served, begun) as link:
        assert link.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        response = served.client.post("/api/v1/datasets", files=file, headers=mine)
        assert response.status_code == 503
        assert response.headers["retry-after"] == "10"
        assert served.client.post("/api/v1/datasets", files=file).status_code == 201


@dataclass(eq=False)
class Waiting:
    """A connection that only counts whether it had to go."""

    address: str
    answering: bool = False
    evicted: bool = False

    def evict(self) -> None:
        self.evicted = True


def test_connections_without_a_whole_request_make_room_first() -> None:
    connections = Connections(in_all=2, per_address=2)
    asked, idle = Waiting("a", answering=True), Waiting("a")
    assert all(connections.admit(each) for each in (asked, idle))
    assert connections.admit(Waiting("a", answering=True))
    assert [asked.evicted, idle.evicted] == [False, True]
    # An answer that is never read gives way, too.
    assert connections.admit(Waiting("a"))
    assert asked.evicted


def test_the_address_with_most_connections_makes_room_for_others() -> None:
    connections = Connections(in_all=4, per_address=3)
    quiet, *crowd = [Waiting("a"), Waiting("b"), Waiting("b"), Waiting("b")]
    assert all(connections.admit(each) for each in (quiet, *crowd))
    assert connections.admit(Waiting("c"))
    assert [each.evicted for each in (quiet, *crowd)] == [False, True, False, False]
    # A connection that is signed in stays, and what has gone leaves its room once.
    for each in (quiet, *crowd[1:]):
        connections.set_evictable(each, False)
    last = Waiting("d")
    assert connections.admit(last)  # in the room of the one from "c"
    connections.set_evictable(last, False)
    assert not connections.admit(Waiting("e"))
    for _ in range(2):
        connections.remove(quiet)
    assert connections.admit(Waiting("e"))
    assert not any(each.evicted for each in (quiet, last, *crowd[1:]))
