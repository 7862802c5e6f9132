"""The short form of every scenario; `make faults` is the long one."""

from pathlib import Path

import pytest

from tests.faults.scenarios import SCENARIOS
from tests.faults.trial import Trial


@pytest.mark.postgres
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    rows = list(SCENARIOS[name](Trial(seed=1, long=False, folder=tmp_path)))
    assert rows
    for row in rows:
        assert row.times > 0, row.fault
        for figure in row.figures:
            assert figure.met, f"{row.fault}: {figure}"
