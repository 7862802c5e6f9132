"""One scenario in a process of its own: `python -m faults.run_scenario NAME SEED FORM FILE`.

Says on standard output how far it is, on standard error what went wrong; what came of it goes into
FILE, which is there only when the scenario has ended.
"""

import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest

from faults.figures import Outcome, Row
from faults.scenarios import scenario
from faults.trial import Trial


def main(name: str, seed: int, form: str, file: Path) -> None:
    rows: list[Row] = []
    broken, start_s = "", time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hlf") as folder:
        trial = Trial(
            seed, form == "long", Path(folder), lambda message: print(message, flush=True)
        )
        try:
            rows.extend(scenario(name)(trial))
        # What this machine lacks is reported as a skipped test is.
        except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
            broken = f"{type(error).__name__}: {error}"
            traceback.print_exc()
    Outcome(name, seed, form, rows, broken, time.monotonic() - start_s).save(file)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
