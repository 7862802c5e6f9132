"""`python -m tests.faults`: breaks an installation on purpose, prints what was lost.

    make faults                                      the long form
    make faults ARGS='--short --only kills --seed 7'

Prints the table for docs/operations.md and, last, one line of JSON.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pytest
from rich.console import Console

from tests.faults.figures import Row, summary, table
from tests.faults.scenarios import SCENARIOS
from tests.faults.stand import to_json
from tests.faults.trial import Trial


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="few faults, as the tests do")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    options = parser.parse_args()
    console = Console(stderr=True)
    rows: list[Row] = []
    broken: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="hlf") as folder, console.status("") as status:
        for number, name in enumerate(options.only, 1):
            place = f"[{number}/{len(options.only)}] "
            status.update(place + name)
            trial = Trial(
                options.seed,
                not options.short,
                Path(folder),
                lambda words, place=place: status.update(place + words),
            )
            start_s = time.monotonic()
            try:
                for row in SCENARIOS[name](trial):
                    rows.append(row)
                    console.print(f"{'ok  ' if row.met else 'BAD '} {row.fault}", highlight=False)
            # What this machine lacks is told as a test tells it.
            except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
                broken[name] = f"{type(error).__name__}: {error}"
                console.print_exception()
            console.print(f"     {name}: {time.monotonic() - start_s:.0f} s", highlight=False)
    print(table(rows))
    figures = {"seed": options.seed, "form": "short" if options.short else "long"}
    print(to_json(figures | summary(rows) | ({"broken": broken} if broken else {})))
    return 0 if not broken and all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
