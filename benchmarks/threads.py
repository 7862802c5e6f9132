"""What two settings of a trainer's process are worth, as ratios of its tokens per second.

Short spins: OpenMP's threads spin while they wait; GOMP_SPINCOUNT bounds that. Measured beside a
busy neighbour, a process that wants a core all the time, and without one.
Kept memory: kdcore asks the allocator to keep freed blocks; measured with and without it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.driver import Contestant, Where, run_module
from benchmarks.progress import Steps, progress_line
from benchmarks.shapes import BUILD, SHAPES

SPINS = {"GOMP_SPINCOUNT": "20000"}
"""As `worker.trainer` sets it."""
_WARM_UPS = 2


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """A process that wants one core all the time."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def compare(
    name: str, with_it: Contestant, without: Contestant, rounds: int, steps: Steps
) -> dict[str, float]:
    """Median times of an update of each, taking turns, and how many times faster `with_it` is."""
    times: dict[str, list[float]] = {"with": [], "without": []}
    try:
        for side in (with_it, without):
            side.wait_ready()
        for update in range(_WARM_UPS + rounds):
            with steps.step(name):
                for key, side in (("with", with_it), ("without", without)):
                    reply = side.update(update)
                    if update >= _WARM_UPS:
                        times[key].append(reply["elapsed_s"])
    finally:
        with_it.close()
        without.close()
    medians = {f"{key}_s": median(values) for key, values in times.items()}
    return medians | {"ratio": medians["without_s"] / medians["with_s"]}


def measure(where: Where, rounds: int, steps: Steps) -> dict[str, dict[str, float]]:
    """The three comparisons."""

    def ours(variables: dict[str, str], *arguments: str) -> Contestant:
        return Contestant("kdcore-fp32", "teacher", where, variables, arguments)

    found = {}
    name = "short spins, alone"
    found[name] = compare(name, ours(SPINS), ours({}), rounds, steps)
    name = "short spins, busy neighbour"
    with busy_neighbour():
        found[name] = compare(name, ours(SPINS), ours({}), rounds, steps)
    name = "kept memory"
    found[name] = compare(name, ours(SPINS), ours(SPINS, "--unprepared"), rounds, steps)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="work-") as folder, progress_line() as steps:
        updates = str(_WARM_UPS + options.rounds)
        arguments = ("--shape", options.shape, "--work", folder, "--updates", updates)
        run_module("benchmarks.work", *arguments)
        found = measure(Where(options.shape, "cpu", Path(folder)), options.rounds, steps)
    for name, figures in found.items():
        print(f"{figures['ratio']:6.2f} times as fast with {name}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
