"""Hostile requests: what the server's own description allows, what it forbids, and raw bytes."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode

from faults.access import World
from faults.figures import Figure, Row
from faults.installation import Installation, installation
from faults.trial import Trial
from faults.watching import Watch

JSON = {"Content-Type": "application/json"}
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
CANARY = "canary-written"
UPWARDS = ("../" * 8, "..%2f" * 8, "%2e%2e/" * 8, "..\\" * 8, "//", "/./../", "....//" * 4)
PLACES = ("etc/passwd", "proc/self/environ", "app/main.py", "halflayer.db", "data/halflayer.db")
PREFIXES = ("/", "/assets/", "/api/v1/", "/api/v1/runs/", "/runs/", "/favicon.svg/")
GIVEN_AWAY = (b"root:x:0", b"SQLite format 3", b"HALFLAYER_BROKER_URL=", b"def create_app")
HEADERS = (
    "Accept",
    "Authorization",
    "Connection",
    "Content-Encoding",
    "Content-Length",
    "Content-Type",
    "Cookie",
    "Expect",
    "Host",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Origin",
    "Range",
    "Sec-Fetch-Site",
    "Transfer-Encoding",
    "Upgrade",
    "X-Forwarded-Host",
)
NAMES = (
    f"../../../../{CANARY}.txt",
    f"/tmp/{CANARY}.txt",
    f"..\\..\\{CANARY}.txt",
    f"{CANARY}.txt\0.jsonl",
    f"~/{CANARY}.txt",
    f"$(touch {CANARY}).txt",
    f"; touch {CANARY} #.txt",
    "CON.txt",
    ".txt",
    "a" * 5000 + ".txt",
    "\u202etxt.exe.txt",
    "\ud83d\ude00.txt",
    "'; DROP TABLE runs; --.txt",
    "%00%2e%2e%2f.txt",
)


@dataclass
class Tally:
    """What the server answered."""

    requests: int = 0
    server_errors: int = 0
    given_away: int = 0
    undocumented: int = 0
    first: list[str] = field(default_factory=list)

    def note(self, status: int, body: bytes, what: str) -> None:
        self.requests += 1
        if status >= 500:
            self.server_errors += 1
            self.first.append(f"{status} for {what}")
        if any(secret in body for secret in GIVEN_AWAY):
            self.given_away += 1
            self.first.append(f"a file for {what}")


def hostile(trial: Trial) -> Iterator[Row]:
    """Generated requests against the real API, which reports all that it writes."""
    folder = trial.new_folder("hostile")
    watch = Watch(folder / "watch.log")
    tally = Tally()
    with installation(folder, workers=0, **watch.environment) as stand:
        described(trial, stand, tally)
        described_requests = tally.requests
        raw_bytes(trial, stand, tally)
        hostile_names(stand, tally)
        answers = stand.api.alive and stand.is_ready()
        outside = watch.written_outside(stand.data_dir)
        connections = watch.connections()
    assert watch.watched()
    ours = (f"('127.0.0.1', {stand.broker_proxy.port})", "127.0.0.1")
    strangers = [each for each in connections if each not in ours]
    facts: dict[str, Any] = {"by_description": described_requests}
    if found := [*tally.first, *outside, *strangers]:
        facts["first"] = "; ".join(map(ascii, found[:3])).replace("|", "/")
    yield Row(
        "hostile ids, names, configs, headers and raw bytes (schemathesis, hypothesis)",
        tally.requests,
        "4xx with a message",
        [
            Figure("server_errors", tally.server_errors),
            Figure("undocumented_statuses", tally.undocumented),
            Figure("files_leaked", tally.given_away),
            Figure("files_written_outside", len(outside)),
            Figure("outbound_hits", len(strangers)),
            Figure("api_deaths", int(not answers)),
        ],
        facts,
    )


def run_examples(
    trial: Trial, name: str, count: int, strategy: SearchStrategy[Any], use: Callable[[Any], None]
) -> None:
    """Call `use` with `count` examples, the same ones for the same seed."""

    @seed(trial.random(name).getrandbits(32))
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(example: Any) -> None:
        use(example)

    with suppress(Unsatisfiable):  # an operation without parameters can be asked in no wrong way
        each()


# ----------------------------------------------------------------- by the server's own description


def described(trial: Trial, stand: Installation, tally: Tally) -> None:
    """Every operation, with what its description allows and with what it forbids."""
    schema = schemathesis.openapi.from_url(f"{stand.url}/api/v1/openapi.json", timeout=60)
    world = World(stand)
    headers = {"Authorization": f"Bearer {stand.token}"}
    with requests.Session() as session:
        session.trust_env = False

        def call(case: Case) -> None:
            session.cookies.clear()
            try:
                response = case.call(session=session, headers=headers, timeout=60)
            except (ValueError, requests.RequestException):
                return  # the client's own library would not send it: raw_bytes does
            what = f"{case.method} {case.path}"
            tally.note(response.status_code, response.content, what)
            if str(response.status_code) not in case.operation.definition.raw["responses"]:
                tally.undocumented += 1
                tally.first.append(f"{response.status_code}, not documented, for {what}")

        for result in schema.get_all_operations():
            operation = result.ok()
            trial.say(f"hostile: {operation.label}")
            world.refill()
            known = {
                name: value for name, value in world.ids.items() if f"{{{name}}}" in operation.path
            }
            for mode in MODES:
                strategy: SearchStrategy[Case] = operation.as_strategy(generation_mode=mode)
                if known:  # an id that exists leads further than one that does not
                    strategy |= operation.as_strategy(generation_mode=mode, path_parameters=known)
                name = f"{operation.label} {mode}"
                run_examples(trial, name, trial.times(4, 50), strategy, call)


# ---------------------------------------------------------------------------------------- raw bytes


def _targets() -> SearchStrategy[str]:
    climbing = st.builds(
        "{}{}{}".format,
        st.sampled_from(PREFIXES),
        st.sampled_from(UPWARDS),
        st.sampled_from(PLACES),
    )
    anything = st.builds(
        lambda prefix, text: prefix + quote(text, safe="/?&=%;:.~"),
        st.sampled_from(PREFIXES),
        st.text(st.characters(codec="utf-8"), max_size=60),
    )
    bytes_in_hex = st.builds(
        lambda data: "/api/v1/runs/" + "".join(f"%{byte:02x}" for byte in data),
        st.binary(max_size=40),
    )
    return climbing | anything | bytes_in_hex


def raw_bytes(trial: Trial, stand: Installation, tally: Tally) -> None:
    """Requests that no client library would send."""
    values = st.binary(max_size=200).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b""))
    example = st.tuples(
        st.sampled_from(["GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X"]),
        _targets(),
        st.dictionaries(st.sampled_from(HEADERS), values, max_size=3),
        st.binary(max_size=100),
    )

    def send(request: tuple[str, str, dict[str, bytes], bytes]) -> None:
        method, target, headers, body = request
        lines = {
            "Host": f"127.0.0.1:{stand.port}".encode(),
            "Authorization": f"Bearer {stand.token}".encode(),
            "Connection": b"close",
            "Content-Type": b"application/json",
            "Content-Length": str(len(body)).encode(),
            **headers,
        }
        head = f"{method} {target} HTTP/1.1\r\n".encode()
        head += b"".join(b"%s: %s\r\n" % (name.encode(), value) for name, value in lines.items())
        answer = _exchange(stand.port, head + b"\r\n" + body)
        status = answer.split(b" ", 2)[1:2]
        if status and status[0].isdigit():
            tally.note(int(status[0]), answer, f"{method} {target} {headers}")

    trial.say("hostile: raw bytes")
    run_examples(trial, "raw", trial.times(150, 2500), example, send)


def _exchange(port: int, request: bytes) -> bytes:
    """What the server answers until it hangs up, or says nothing more for a second."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with suppress(OSError):
            connection.sendall(request)
            # A client that announces a body and sends less of it is waited for.
            connection.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            while data := connection.recv(1 << 16):
                answer += data
    return answer


def hostile_names(stand: Installation, tally: Tally) -> None:
    """Names that would be paths or commands if anybody took them for such."""
    for name in NAMES:
        for kind in ("text", "tokenizer"):
            form = f'--x\r\nContent-Disposition: form-data; name="kind"\r\n\r\n{kind}\r\n'
            form += f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
            body = form.encode("utf-8", "surrogatepass") + b"la\nla\n\r\n--x--\r\n"
            sent = stand.http.post(
                "/datasets",
                content=body,
                headers={"Content-Type": "multipart/form-data; boundary=x"},
            )
            tally.note(sent.status_code, sent.content, f"an upload named {name[:80]}")
        for path, body in (
            ("/runs", {"name": name, "config": {"kind": "teacher"}}),
            ("/tokens", {"name": name}),
        ):
            # httpx writes surrogates as they are, which is not UTF-8; escaped, they are JSON.
            answer = stand.http.post(path, content=json.dumps(body), headers=JSON)
            tally.note(answer.status_code, answer.content, f"{path} {name[:80]}")
