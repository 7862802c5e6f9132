"""kdcore against the recipe the plain way: speed, memory and parity, on the same batches.

    make bench                              the published shape
    make bench ARGS='--shape demo'          a smaller one
    make bench ARGS='--only distill --rounds 5 --device cuda'

Every contestant lives in a process of its own. In each duel they take turns, one update each, so
that whatever else the machine does affects all alike; figures are medians over the rounds. Ends
with a table and one line of JSON.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.driver import Contestant, ContestantDied, Where, run_module
from benchmarks.progress import Steps, progress_line
from benchmarks.report import print_tables, summary
from benchmarks.shapes import BUILD, SHAPES, TIMING_DROPOUT

STAGES = ("teacher", "distill", "memory", "parity")
_COUNTED, _WARM_UPS = 1, 1
_BUSY_SHARE = 0.02
"""A waiting contestant that takes more of a core than this spoils the others' figures."""


def duels(*, bf16: bool) -> list[list[str]]:
    """Who takes turns with whom; one heavy contestant at a time, since each needs its memory."""
    meetings = [["reference", "kdcore-fp32"], ["reference-tuned", "kdcore-fp32"]]
    if bf16:
        meetings[0].append("kdcore-bf16")
        meetings.append(["reference-tuned-bf16", "kdcore-bf16"])
    return meetings


def updates_of(rounds: int) -> int:
    """Updates of a contestant in one duel."""
    return _COUNTED + _WARM_UPS + rounds


def run_duels(
    where: Where, goal: str, tokens: list[int], rounds: int, steps: Steps, *, bf16: bool
) -> dict[str, Any]:
    """`{duel's reference: {contestant: measured}}`; see `_measured`."""
    meetings = duels(bf16=bf16)
    alive = {name: Contestant(name, goal, where) for name in _names(meetings)}
    failed: dict[str, ContestantDied] = {}
    found: dict[str, Any] = {}
    try:
        with steps.step(f"{goal}: loading"):
            for name, contestant in alive.items():
                try:
                    contestant.wait_ready()
                except ContestantDied as error:
                    failed[name] = error
        for number, names in enumerate(meetings):
            meeting = {name: alive[name] for name in names}
            found[names[0]] = _duel(meeting, failed, tokens, rounds, steps)
            for name in alive.keys() - set(_names(meetings[number + 1 :])):
                alive.pop(name).close()
    finally:
        for contestant in alive.values():
            contestant.close()
    return found


def _names(meetings: list[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in meetings for name in names))


def _duel(
    contestants: dict[str, Contestant],
    failed: dict[str, ContestantDied],
    tokens: list[int],
    rounds: int,
    steps: Steps,
) -> dict[str, Any]:
    """Let them take turns; one that dies is added to `failed`, and the others go on."""
    replies: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for update in range(updates_of(rounds)):
        for name, contestant in contestants.items():
            if name in failed:
                continue
            with steps.step(f"{contestant.goal}: {name}"):
                try:
                    reply = contestant.update(update, count=update < _COUNTED)
                except ContestantDied as error:
                    failed[name] = error
                    continue
            _check_tokens(name, reply, tokens[update])
            replies[name].append(reply)
    return {
        name: _failure(failed[name]) if name in failed else _measured(replies[name], tokens)
        for name in contestants
    }


def _check_tokens(name: str, reply: dict[str, Any], expected: int) -> None:
    assert reply["tokens"] in (None, expected), f"{name} read another batch"


def _failure(error: ContestantDied) -> dict[str, Any]:
    return {"failed": error.reason, "peak_bytes": error.peak_bytes}


def _measured(replies: list[dict[str, Any]], tokens: list[int]) -> dict[str, Any]:
    """Rates of the measured rounds, FLOPs a token, peak memory, and what waiting cost."""
    first = _COUNTED + _WARM_UPS
    waited_s = sum(reply["waited_s"] for reply in replies[1:])
    busy = sum(reply["idle_cpu_s"] for reply in replies[1:]) / max(waited_s, 1e-9)
    return {
        "tokens_per_s": [
            count / reply["elapsed_s"]
            for reply, count in zip(replies[first:], tokens[first:], strict=False)
        ],
        "flops_per_token": replies[0]["flops"] / tokens[0],
        "peak_bytes": replies[-1]["peak_bytes"],
        "busy_while_waiting": busy if waited_s > 1.0 and busy > _BUSY_SHARE else 0.0,
    }


def run_memory(where: Where, steps: Steps, *, bf16: bool) -> dict[str, Any]:
    """Peak memory of one update on the largest batch, one fresh process after the other."""
    found: dict[str, Any] = {}
    for name in ["reference", "kdcore-fp32", *(["kdcore-bf16"] if bf16 else [])]:
        with steps.step(f"memory: {name}"):
            contestant = Contestant(name, "largest", where)
            try:
                contestant.wait_ready()
                found[name] = {"peak_bytes": contestant.update(0)["peak_bytes"]}
            except ContestantDied as error:
                found[name] = _failure(error)
            finally:
                contestant.close()
    return found


def run_parity(where: Where, steps: Steps, *, bf16: bool) -> dict[str, Any]:
    """Parity in fp32; and in bf16, emulated on a smaller shape where the hardware lacks it."""
    here = ["--work", str(where.work), "--device", where.device]
    small = where.shape if bf16 or where.shape != "published" else "demo"
    wanted = ["fp32", "bf16"] if small == where.shape else ["fp32"]
    with steps.step("parity"):
        found = run_module(
            "benchmarks.parity", "--shape", where.shape, *here, "--arithmetic", *wanted
        )
    if small != where.shape:
        with steps.step(f"parity in bf16, emulated, {small}"), _work_folder() as work:
            _prepare(small, work, 2)
            arguments = ["--shape", small, "--work", str(work), "--device", where.device]
            other = run_module("benchmarks.parity", *arguments, "--arithmetic", "bf16")
            for goal, arithmetics in other.items():
                found[goal] |= arithmetics
    return found | {"bf16_shape": small, "bf16_emulated": not bf16}


@contextmanager
def _work_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="work-") as folder:
        yield Path(folder)


def _prepare(shape: str, work: Path, updates: int) -> dict[str, Any]:
    arguments = ["--shape", shape, "--work", str(work), "--updates", str(updates)]
    return run_module("benchmarks.work", *arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, stage by stage."""
    stages = options.only or list(STAGES)
    quick = ["--quick"] if options.shape == "tiny" else []
    BUILD.mkdir(parents=True, exist_ok=True)
    with _work_folder() as work, progress_line() as steps:
        where = Where(options.shape, options.device, work)
        peak = ("benchmarks.peak", "--device", options.device, *quick)
        with steps.step("GEMM peak"):
            machine = run_module(*peak)
        bf16 = machine["bf16_hardware"]
        timed = [stage for stage in stages if stage in ("teacher", "distill")]
        steps.expect(_expected(stages, timed, options, bf16=bf16))
        with steps.step("text, models and batches"):
            tokens = _prepare(options.shape, work, updates_of(options.rounds))
        found: dict[str, Any] = {"machine": machine}
        for goal in timed:
            found[goal] = run_duels(where, goal, tokens[goal], options.rounds, steps, bf16=bf16)
        if "memory" in stages:
            found["memory"] = run_memory(where, steps, bf16=bf16)
        if "parity" in stages:
            try:
                found["parity"] = run_parity(where, steps, bf16=bf16)
            except ContestantDied as error:
                found["parity_failed"] = error.reason
        with steps.step("GEMM peak"):
            after = run_module(*peak)
    for name in ("gemm_peak_gflops_fp32", "gemm_peak_gflops_bf16"):
        if machine[name] is not None:
            machine[f"{name}_before_after"] = [machine[name], after[name]]
            machine[name] = max(machine[name], after[name])
    settings = {"shape": options.shape, "rounds": options.rounds, "dropout": TIMING_DROPOUT}
    return found | {"settings": settings}


def _expected(
    stages: list[str], timed: list[str], options: argparse.Namespace, *, bf16: bool
) -> list[str]:
    """The steps to come, for the progress line."""
    goals = [
        f"{goal}: {name}"
        for goal in timed
        for names in [["loading"], *duels(bf16=bf16) * updates_of(options.rounds)]
        for name in names
    ]
    memory = [f"memory: {n}" for n in ["reference", "kdcore-fp32", "kdcore-bf16"][: 2 + bf16]]
    parity = ["parity"]
    if options.shape == "published" and not bf16:
        parity.append("parity in bf16, emulated, demo")
    return [
        "text, models and batches",
        *goals,
        *(memory if "memory" in stages else []),
        *(parity if "parity" in stages else []),
        "GEMM peak",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="published")
    parser.add_argument("--rounds", type=int, default=3, help="measured updates of each (3)")
    parser.add_argument("--only", choices=STAGES, nargs="+")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    found = measure(options)
    figures = summary(found)
    print_tables(found)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
