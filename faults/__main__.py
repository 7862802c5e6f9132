"""`python -m faults`: injects faults into a real installation and reports data loss.

    make faults                                      the long form, which takes hours
    make faults ARGS='--short --only kills --seed 7'
    make faults ARGS='--seed 1 2 3 --jobs 2 --resume'

The outcome of each scenario is kept in build/faults, so that `--resume` continues after a stop.
Prints the table for docs/fault-report.md and, last, one line of JSON.
"""

import argparse
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from faults.figures import Outcome, Row, merged, summary, table
from faults.installation import ROOT, to_json
from faults.scenarios import SCENARIOS

RESULTS = ROOT / "build" / "faults"
console = Console(stderr=True)


@dataclass(frozen=True)
class Task:
    """One scenario with one seed."""

    name: str
    seed: int
    form: str
    results: Path

    @property
    def file(self) -> Path:
        return self.results / f"{self.form}-{self.seed}-{self.name}.json"

    def run(self, progress: Progress, *, resume: bool) -> Outcome:
        """Carry it out in a process of its own; what it says is shown."""
        if resume and self.file.exists():
            before = Outcome.load(self.file)
            if not before.broken:
                return before
        self.file.unlink(missing_ok=True)
        line = progress.add_task(f"{self.name}, seed {self.seed}", total=None)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "faults.run_scenario"),
                *(self.name, str(self.seed), self.form, str(self.file)),
            ],
            cwd=ROOT,
            env={"OMP_NUM_THREADS": "1"} | dict(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        with ThreadPoolExecutor(1) as reader:
            errors = reader.submit(process.stderr.read)
            for message in process.stdout:
                progress.update(
                    line, description=f"{self.name}, seed {self.seed}: {message.strip()}"
                )
            status = process.wait()
        progress.remove_task(line)
        if errors.result():
            console.print(errors.result(), highlight=False, markup=False)
        if not self.file.exists():
            return Outcome(self.name, self.seed, self.form, [], f"exit status {status}", 0.0)
        return Outcome.load(self.file)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    parser.add_argument("--short", action="store_true", help="few faults, as the tests do")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument(
        "--jobs", type=int, default=1, help="scenarios at a time; more is a harder test"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the outcomes of scenarios that ended before"
    )
    options = parser.parse_args()
    form = "short" if options.short else "long"
    # Who is started in the background of a script ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    RESULTS.mkdir(parents=True, exist_ok=True)
    tasks = [Task(name, seed, form, RESULTS) for seed in options.seed for name in options.only]
    outcomes = _all(tasks, options.jobs, resume=options.resume)
    rows: list[Row] = merged([row for outcome in outcomes for row in outcome.rows])
    print(table(rows))
    broken = {f"{each.name} {each.seed}": each.broken for each in outcomes if each.broken}
    unfinished = len(tasks) - len(outcomes)
    figures: dict[str, object] = {"seeds": options.seed, "form": form, **summary(rows)}
    if broken:
        figures["broken"] = broken
    if unfinished:
        figures["unfinished"] = unfinished
    print(to_json(figures))
    return 0 if not unfinished and all(outcome.met for outcome in outcomes) else 1


def _all(tasks: list[Task], jobs: int, *, resume: bool) -> list[Outcome]:
    """The outcomes in the order of the tasks; after Ctrl-C those that there are."""
    done: dict[Task, Outcome] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=console) as progress,
        ThreadPoolExecutor(max(1, jobs)) as pool,
    ):
        whole = progress.add_task("scenarios", total=len(tasks))
        running = {pool.submit(task.run, progress, resume=resume): task for task in tasks}
        try:
            for future in as_completed(running):
                task, outcome = running[future], future.result()
                done[task] = outcome
                _tell(outcome)
                progress.advance(whole)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            console.print("stopped; --resume goes on from here", highlight=False)
            pool.shutdown(cancel_futures=True)
    return [done[task] for task in tasks if task in done]


def _tell(outcome: Outcome) -> None:
    for row in outcome.rows:
        console.print(f"{'ok  ' if row.met else 'BAD '} {row.fault}", highlight=False)
    suffix = outcome.broken and f", broken: {outcome.broken}"
    console.print(
        f"     {outcome.name}, seed {outcome.seed}: {outcome.elapsed_s:.0f} s{suffix}",
        highlight=False,
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())
