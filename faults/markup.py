"""Names full of markup, shown in a real browser on every view: text stays text."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Browser, Dialog, Page, Route
from playwright.sync_api import Error as PlaywrightError

from app.auth.service import create_token
from app.datasets.models import Dataset
from app.db import new_id, utc_now
from app.runs.models import Artifact, LogLine, MetricPoint, Run, RunInput
from app.runs.states import RunState
from app.workers.models import Worker
from faults.figures import Figure, Row
from faults.installation import Installation, installation
from faults.trial import Trial
from kdcore.presets import preset
from tests.fixtures.chromium import NAMES, find_chromium, running_chromium
from tests.fixtures.missing import skip_or_fail

PAYLOADS = (
    '"><img src=x data-canary onerror=canary()><script>canary()</script>',
    "<img src=x data-canary onerror=canary()>",
    '"><script data-canary>canary()</script>',
    "<svg data-canary onload=canary()>",
    "';canary();//",
    "</script><script>canary()</script>",
    "javascript:canary()",
    "{{constructor.constructor('canary()')()}}${canary()}",
    '<a href="javascript:canary()" data-canary>x</a>',
    "<iframe srcdoc='<script>parent.canary()</script>' data-canary>",
    "<b data-canary>bold</b>&lt;script&gt;canary()&lt;/script&gt;",
    "\u202e<style data-canary>*{background:url(//evil.example)}</style>",
    "http://evil.example/%3Cscript%3E",
)
# Runs before any script of the page; counts what fired, what was blocked, and what became markup.
WATCH = """
window.fired = 0; window.canary = () => { window.fired += 1 };
window.blocked = [];
document.addEventListener('securitypolicyviolation', event =>
  window.blocked.push(event.violatedDirective + ' ' + event.blockedURI));
"""
COUNT = """() => ({
  fired: window.fired,
  blocked: window.blocked,
  markup: document.querySelectorAll('[data-canary], img[src="x"], a[href^="javascript:"]').length,
})"""
TABS = ("Metrics", "Tensors", "Log", "Config", "Files")
PAGE_TIMEOUT_MS = 120_000


@dataclass
class Seen:
    """What the browser saw on all views together."""

    views: int = 0
    fired: int = 0
    markup: int = 0
    blocked: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    unshown: list[str] = field(default_factory=list)
    """Views on which a name did not appear as the text that it is."""

    def look(self, page: Page, *texts: str) -> None:
        """Count what came of the view that is open now, once it shows `texts`."""
        self.views += 1
        for text in texts:
            try:
                page.wait_for_function(
                    "text => document.body.innerText.includes(text) ||"
                    " document.title.includes(text)",
                    arg=text,
                    timeout=PAGE_TIMEOUT_MS,
                )
            except PlaywrightError:
                self.unshown.append(f"{page.url}: {text}")
        counted = page.evaluate(COUNT)
        self.fired += counted["fired"]
        self.markup += counted["markup"]
        self.blocked += counted["blocked"]


def markup(trial: Trial) -> Iterator[Row]:
    """Every payload in every place that takes text, opened on every view."""
    executable = find_chromium()
    if executable is None:
        skip_or_fail(f"no Chromium on this machine (looked for {', '.join(NAMES)})")
    payloads = PAYLOADS if trial.long else PAYLOADS[:1]
    seen = Seen()
    with (
        installation(trial.new_folder("markup"), workers=0) as stand,
        running_chromium(executable) as browser,
    ):
        page = _signed_in(browser, stand, seen)
        for payload in payloads:
            trial.say(f"markup: {payload}")
            _visit(stand, page, seen, payload)
        page.context.close()
    facts: dict[str, Any] = {"payloads": len(payloads)}
    if found := [*seen.blocked, *seen.outside, *seen.unshown]:
        facts["first"] = "; ".join(found[:3]).replace("|", "/")
    yield Row(
        "names, logs, errors, hosts, columns and addresses full of markup, in a real browser",
        seen.views,
        "the very text that was given",
        [
            Figure("scripts_executed", seen.fired),
            Figure("markup_elements", seen.markup),
            Figure("csp_violations", len(seen.blocked)),
            Figure("outside_requests", len(seen.outside)),
            Figure("texts_not_shown", len(seen.unshown)),
        ],
        facts,
    )


def _signed_in(browser: Browser, stand: Installation, seen: Seen) -> Page:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PAGE_TIMEOUT_MS)
    context.add_init_script(WATCH)

    def gate(route: Route) -> None:
        url = route.request.url
        if url.startswith((stand.url, "blob:", "data:", "file:")):
            route.continue_()
        else:
            seen.outside.append(url)
            route.abort()

    context.route("**/*", gate)
    page = context.new_page()

    def dialog(opened: Dialog) -> None:
        seen.fired += 1
        opened.dismiss()

    page.on("dialog", dialog)
    # Where nothing escapes and no policy holds, the alarm must go off.
    page.goto("about:blank")
    page.set_content(PAYLOADS[0])
    page.wait_for_function("() => window.fired > 0")
    assert page.evaluate(COUNT)["markup"] > 0
    with stand.db.write() as session:
        secret = create_token(session, "login", "browser", "admin", timedelta(hours=1))[1]
    # Where to go after signing in is a text from outside, too.
    page.goto(f"{stand.url}/login?next={quote('javascript:canary()')}#token={secret}")
    page.get_by_role("link", name="New run").wait_for()
    return page


def _visit(stand: Installation, page: Page, seen: Seen, payload: str) -> None:
    """Store `payload` wherever text is kept, and open every view that shows it."""
    run_ids = _store(stand, payload)
    page.goto(stand.url)
    seen.look(page, payload)
    page.goto(f"{stand.url}/?q={quote(payload)}&kind={quote(payload)}")
    seen.look(page, payload)
    for run_id in run_ids:
        page.goto(f"{stand.url}/runs/{run_id}")
        seen.look(page, payload)
        for name in TABS:
            tab = page.get_by_role("tab", name=name)
            if tab.count():
                tab.click()
                page.wait_for_timeout(200)
                seen.look(page)
        page.goto(f"{stand.url}/new?from={run_id}")
        page.get_by_role("button", name="Submit").first.wait_for()
        seen.look(page)
        # The report is a download: opened from disk, no content security policy protects it.
        report = stand.folder / "report.html"
        report.write_bytes(stand.http.get(f"/runs/{run_id}/report").raise_for_status().content)
        page.goto(report.as_uri())
        seen.look(page, payload)
    for path in ("datasets", "workers", "tokens"):
        page.goto(f"{stand.url}/{path}")
        seen.look(page, payload)
    for path in (f"runs/{quote(payload, safe='')}", quote(payload), f"new?kind={quote(payload)}"):
        page.goto(f"{stand.url}/{path}")
        page.wait_for_timeout(200)
        seen.look(page)
    _forget(stand, run_ids)


def _store(stand: Installation, payload: str) -> list[str]:
    """Rows with the payload in every text, some over REST, the rest as a hostile trainer might."""
    stand.http.post("/tokens", json={"name": payload}).raise_for_status()
    stand.http.post(
        "/datasets",
        files={"file": ("a.jsonl", b'{"text": "la"}\n{"text": "la"}\n')},
        data={"name": payload},
    ).raise_for_status()
    config = preset("small-teacher").config.model_dump(mode="json")
    config["corpus"] |= {"column": payload} if config["corpus"]["source"] == "hub" else {}
    submitted = stand.http.post("/runs", json={"name": payload, "config": config})
    failed_id = submitted.raise_for_status().json()["id"]
    worker = Worker(
        id=new_id(),
        hostname=payload,
        pid=1,
        device=payload[:64],
        device_name=payload,
        version=payload[:32],
        stopped_at=utc_now(),
    )
    prune_config = preset("small-teacher").config.model_dump(mode="json") | {"kind": "prune"}
    pruned = Run(
        id=new_id(),
        name=payload,
        kind="prune",
        state=RunState.SUCCEEDED,
        config=prune_config | {payload: payload},
        worker_id=worker.id,
        result={payload: payload, "copied": [{"tensor": payload, "from": payload}]},
        environment={"versions": {payload: payload}, "device": payload},
    )
    with stand.db.write() as session:
        session.add_all([worker, pruned])
        session.flush()
        session.add(RunInput(run_id=pruned.id, role="teacher", input_run_id=failed_id))
        failed = session.get_one(Run, failed_id)
        failed.state, failed.error_code, failed.error_message = "failed", "data", payload
        failed.worker_id, failed.phase, failed.event_seq = worker.id, payload[:32], 4
        for seq in (1, 2):
            session.add(
                MetricPoint(
                    run_id=failed_id, seq=seq, name=payload[:64], attempt=1, step=seq, value=seq
                )
            )
        for seq in (3, 4):
            session.add(
                LogLine(
                    run_id=failed_id,
                    seq=seq,
                    attempt=1,
                    time=utc_now(),
                    level="error",
                    message=payload,
                )
            )
        for run_id in (failed_id, pruned.id):
            session.add(
                Artifact(
                    run_id=run_id,
                    path=payload,
                    attempt=1,
                    size_bytes=1,
                    sha256="0" * 64,
                    storage_key=f"{run_id}/1/x",
                )
            )
    return [failed_id, pruned.id]


def _forget(stand: Installation, run_ids: list[str]) -> None:
    """So that a later view shows a later payload, and not this one."""
    with stand.db.write() as session:
        for run_id in reversed(run_ids):
            session.delete(session.get_one(Run, run_id))
            session.flush()
        for table in (Dataset, Worker):
            for row in session.query(table):
                session.delete(row)
