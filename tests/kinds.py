"""Four kinds of tests, told apart by where they lie and what they use.

- `faults`: the scenarios of tests/faults;
- `e2e`: whole installations and browsers, in tests/e2e;
- `integration`: takes a database server, a broker or a served API, or is marked because it starts
  processes;
- `unit`: all others; one that starts a process fails.
"""

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SERVICES = {"_tether", "database_url", "empty_database_url"}
"""What starts a server holds it by the first; the others ask for theirs by its name."""
KINDS = ("e2e", "faults", "integration", "unit")
"""The longest first: xdist hands out whole files, and the last ones should be short."""
_STARTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.system"}

_running: str | None = None
_violations: list[str] = []
"""Of the running test, which may have caught the error."""


def kind_of(item: pytest.Item) -> str:
    """The kind of a test."""
    if item.path.is_relative_to(HERE / "e2e"):
        return "e2e"
    for kind in ("faults", "integration"):
        if item.get_closest_marker(kind):
            return kind
    fixtures: list[str] = getattr(item, "fixturenames", [])
    return "integration" if SERVICES.intersection(fixtures) else "unit"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    kinds = {}
    for item in items:
        kinds[item] = kind_of(item)
        item.add_marker(kinds[item])
    items.sort(key=lambda item: KINDS.index(kinds[item]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    global _running  # noqa: PLW0603
    _running = item.nodeid if item.get_closest_marker("unit") else None
    _violations.clear()
    try:
        return (yield)
    finally:
        _running = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, Any, Any]:
    result = yield
    if _violations:
        raise AssertionError(_violations[0])
    return result


def _watch(event: str, _arguments: tuple[Any, ...]) -> None:
    if _running is not None and event in _STARTS:
        _violations.append(f"{_running} starts a process: mark it pytest.mark.integration")
        raise AssertionError(_violations[-1])


sys.addaudithook(_watch)
