"""A user in a real Chromium: signs in, submits a pipeline, watches it, downloads the student."""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.e2e.conftest import Installation
from tests.e2e.fill_mask import guesses
from tests.fixtures.chromium import NAMES, find_chromium, running_chromium
from tests.fixtures.configs import tiny_pipeline
from tests.fixtures.missing import skip_or_fail

TRAINING_TIMEOUT_MS = 240_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        skip_or_fail(f"no Chromium on this machine (looked for {', '.join(NAMES)})")
    with running_chromium(executable) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, installation: Installation) -> Iterator[Page]:
    """A page that is signed in, and that must not log an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    outside = [
        "**/*",
        lambda route: (
            route.continue_()
            if route.request.url.startswith((installation.url, "blob:", "data:"))
            else (problems.append(f"asked for {route.request.url}"), route.abort())
        ),
    ]
    context.route(*outside)
    link = installation.halflayer("token", "create", "--login").stdout.strip()
    page.goto(link)
    expect(page.get_by_role("link", name="New run")).to_be_visible(timeout=20_000)
    assert "hl_login" not in page.url
    yield page
    context.close()
    assert problems == []


def fill_form(page: Page, config: dict[str, object], prefix: str = "root") -> None:
    """Types the config's numbers into the fields of the form, as a person would."""
    for name, value in config.items():
        identifier = f"{prefix}_{name}"
        if isinstance(value, dict):
            section = page.locator(f'[data-section="{identifier}"][aria-expanded="false"]')
            if section.count():
                section.click()
            fill_form(page, value, identifier)
        elif not isinstance(value, str):  # texts are the choices, and these are the defaults
            page.locator(f"#{identifier}").fill(str(value))


def points(page: Page) -> int:
    """How many points the loss curve on the page has now."""
    count = page.evaluate(
        """() => Math.max(0, ...[...document.querySelectorAll('[data-chart] .js-plotly-plot')]
            .flatMap(plot => (plot.data || []).map(curve => curve.x.length)))"""
    )
    return int(count)


@pytest.mark.browser
def test_from_the_form_to_a_student_that_fills_masks(page: Page, tmp_path: Path) -> None:
    page.get_by_role("link", name="New run").click()
    # The list, which has a box of its own, stays until the form's code is there.
    expect(page.get_by_role("heading", name="New run")).to_be_visible(timeout=20_000)
    page.get_by_role("textbox", name="Name").first.fill("from the browser")
    # Long enough that the page, also of a busy machine, shows the curve before it is whole.
    fill_form(page, tiny_pipeline(teacher_steps=700))
    page.get_by_role("button", name="Submit three runs").click()

    # The teacher's curve appears and grows while it trains.
    page.wait_for_url("**/runs/*", timeout=30_000)
    page.locator("[data-chart] .js-plotly-plot").first.wait_for(timeout=TRAINING_TIMEOUT_MS)
    first = points(page)
    page.wait_for_function(
        """first => Math.max(0, ...[...document.querySelectorAll('[data-chart] .js-plotly-plot')]
            .flatMap(plot => (plot.data || []).map(curve => curve.x.length))) > first""",
        arg=first,
        timeout=TRAINING_TIMEOUT_MS,
    )

    # Along the lineage to the student, which the page follows to its end.
    page.get_by_role("navigation", name="Lineage").get_by_role("link").last.click()
    page.get_by_role("tab", name="Files").click()
    button = page.get_by_role("link", name="Download checkpoint")
    button.wait_for(timeout=TRAINING_TIMEOUT_MS)
    assert points(page) == 0  # the metrics tab is not mounted while the files are shown
    with page.expect_download() as download:
        button.click()
    archive = tmp_path / "student.zip"
    download.value.save_as(archive)
    folder = tmp_path / "student"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    model = next(folder.rglob("config.json")).parent
    # The lines to copy from the page name the folder that the archive unpacks to.
    expect(page.get_by_text(f'"./{model.relative_to(folder)}"')).to_be_visible()
    assert len(guesses(model)) == 5

    # The config leads to the runs that it names.
    page.get_by_role("tab", name="Config").click()
    teachers = page.get_by_role("tabpanel", name="Config").get_by_role("link")
    expect(teachers).to_have_count(2)
    teacher_id = teachers.first.inner_text()
    teachers.first.click()
    page.wait_for_url(f"**/runs/{teacher_id}*")


@pytest.mark.browser
def test_a_dialog_never_turns_into_another_one(
    page: Page, installation: Installation, tmp_path: Path
) -> None:
    config = tmp_path / "teacher.json"
    config.write_text(json.dumps({"kind": "teacher"} | tiny_pipeline(teacher_steps=300)["teacher"]))
    submitted = installation.halflayer("runs", "submit", str(config), "--json")
    run_id = json.loads(submitted.stdout)[0]["id"]
    page.goto(f"{installation.url}/runs/{run_id}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Cancel this run?")
    expect(dialog.get_by_role("button", name="Cancel run")).to_be_focused()

    # The run succeeds while the dialog is open: it closes and says why.
    expect(page.get_by_text("The run has already ended (succeeded)")).to_be_visible(
        timeout=TRAINING_TIMEOUT_MS
    )
    expect(dialog).to_have_count(0)
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Delete", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Delete", exact=True)).not_to_be_focused()
    expect(dialog).to_have_count(0)
    listed = installation.halflayer("runs", "list", "--json").stdout
    assert {run["id"]: run["state"] for run in json.loads(listed)["items"]}[run_id] == "succeeded"

    # Leaving the page closes its dialog, with a notification.
    page.get_by_role("link", name="Runs").first.click()
    page.get_by_role("link", name=re.compile("^Teacher")).first.click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(dialog).to_contain_text("Delete this run?")
    page.go_back()
    expect(page.get_by_text("“Delete this run?” was closed. Nothing was changed.")).to_be_visible()
    expect(dialog).to_have_count(0)
    page.keyboard.press("Enter")
    listed = installation.halflayer("runs", "list", "--json").stdout
    assert run_id in {run["id"] for run in json.loads(listed)["items"]}


@pytest.mark.browser
def test_hidden_tabs_leave_the_browser_its_connections(
    page: Page, installation: Installation, tmp_path: Path
) -> None:
    config = tmp_path / "teacher.json"
    teacher = {"kind": "teacher"} | tiny_pipeline(teacher_steps=100_000)["teacher"]
    config.write_text(json.dumps(teacher))
    submitted = installation.halflayer("runs", "submit", str(config), "--json")
    run_id = json.loads(submitted.stdout)[0]["id"]
    for tab in (page, *(page.context.new_page() for _ in range(7))):
        tab.goto(f"{installation.url}/runs/{run_id}")
        expect(tab.get_by_text("live", exact=True)).to_be_visible(timeout=60_000)
        _set_hidden(tab, hidden=True)
    _set_hidden(page, hidden=False)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel run").click()
    expect(page.get_by_role("button", name="Delete", exact=True)).to_be_visible(timeout=60_000)


def _set_hidden(page: Page, *, hidden: bool) -> None:
    """As a browser with a window does when another tab is chosen."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


@pytest.mark.browser
def test_a_submit_whose_answer_is_lost_makes_one_run(
    browser: Browser, installation: Installation
) -> None:
    # A page of its own: the lost answer is an error in the console.
    context = browser.new_context(base_url=installation.url)
    page = context.new_page()
    page.goto(installation.halflayer("token", "create", "--login").stdout.strip())
    expect(page.get_by_role("link", name="New run")).to_be_visible(timeout=20_000)
    sent: list[str] = []

    def lose_the_first_answer(route: Route) -> None:
        if route.request.method != "POST" or sent:
            route.continue_()
            return
        sent.append(str(route.fetch().json()["id"]))
        route.abort()

    page.route("**/api/v1/runs", lose_the_first_answer)
    page.goto("/new?kind=teacher")
    page.get_by_role("textbox", name="Name").first.fill("answer lost")
    button = page.get_by_role("button", name="Submit run")
    button.click()
    expect(page.get_by_text("The server cannot be reached")).to_be_visible(timeout=20_000)
    button.click()
    page.wait_for_url("**/runs/*", timeout=30_000)
    assert page.url.rpartition("/")[2] == sent[0]
    assert page.request.get("/api/v1/runs?q=answer+lost").json()["total"] == 1
    page.request.post(f"/api/v1/runs/{sent[0]}/cancel", headers={"Origin": installation.url})
    context.close()
