"""What it is worth that kdcore asks the allocator to keep freed blocks: a ratio of tokens/s."""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.driver import Contestant, Where, run_module
from benchmarks.progress import Steps, progress_line
from benchmarks.shapes import BUILD, SHAPES

_WARM_UPS = 2


def measure(where: Where, rounds: int, steps: Steps) -> dict[str, float]:
    """Median seconds of an update with and without it, taking turns; and the ratio."""
    sides = {
        "kept_s": Contestant("kdcore-fp32", "teacher", where),
        "unprepared_s": Contestant("kdcore-fp32", "teacher", where, {}, ("--unprepared",)),
    }
    times_s: dict[str, list[float]] = {name: [] for name in sides}
    steps.expect(["update"] * (_WARM_UPS + rounds))
    try:
        for side in sides.values():
            side.wait_ready()
        for update in range(_WARM_UPS + rounds):
            with steps.step("update"):
                for name, side in sides.items():
                    reply = side.update(update)
                    if update >= _WARM_UPS:
                        times_s[name].append(reply["elapsed_s"])
    finally:
        for side in sides.values():
            side.close()
    medians = {name: median(values) for name, values in times_s.items()}
    return medians | {"ratio": medians["unprepared_s"] / medians["kept_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="work-") as folder, progress_line() as steps:
        updates = str(_WARM_UPS + options.rounds)
        arguments = ("--shape", options.shape, "--work", folder, "--updates", updates)
        run_module("benchmarks.work", *arguments)
        found = measure(Where(options.shape, "cpu", Path(folder)), options.rounds, steps)
    print(f"{found['ratio']:.2f} times as fast with kept memory")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
