"""The short form of the quicker scenarios; `make faults ARGS=--short` has all of them.

What the others attack has tests of its own in tests/worker, tests/kdcore and tests/app.
"""

from pathlib import Path

import pytest

from faults.scenarios import SCENARIOS, scenario
from faults.trial import Trial

QUICK = (
    "kills",
    "sqlite-writers",
    "access",
    "hostile",
    "held-requests",
    "half-sent",
    "upload-crowd",
    "markup",
    "canaries",
    "checkpoints",
    "kernel-kills",
    "killed-api",
)


@pytest.mark.integration
def test_every_scenario_is_where_its_name_leads() -> None:
    assert all(callable(scenario(name)) for name in SCENARIOS)


@pytest.mark.faults
@pytest.mark.postgres
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    rows = list(scenario(name)(Trial(seed=1, long=False, folder=tmp_path)))
    assert rows
    for row in rows:
        assert row.times > 0, row.fault
        for figure in row.figures:
            assert figure.met, f"{row.fault}: {figure}"
