"""Turns what `benchmarks.bench` measured into its table and its line of JSON; measures nothing."""

from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

GIB = 1 << 30
NO_BF16 = "this machine has no bf16 instructions that pay"
_ORDER = ("reference", "reference-tuned", "reference-tuned-bf16", "kdcore-fp32", "kdcore-bf16")
_YARDSTICK = {"kdcore-fp32": "reference-tuned", "kdcore-bf16": "reference-tuned-bf16"}
"""The tuned reference of the same arithmetic."""


def speedup(duels: dict[str, Any] | None, ours: str, reference: str) -> float | None:
    """Ratio of the medians of the tokens per second, of the duel of these two."""
    duel = (duels or {}).get(reference, {})
    rates = [duel.get(name, {}).get("tokens_per_s") for name in (ours, reference)]
    return median(rates[0]) / median(rates[1]) if rates[0] and rates[1] else None


def _all_rates(duels: dict[str, Any], name: str) -> list[float]:
    return [rate for duel in duels.values() for rate in duel.get(name, {}).get("tokens_per_s", [])]


def _first(duels: dict[str, Any], name: str) -> dict[str, Any]:
    return next((duel[name] for duel in duels.values() if name in duel), {})


def memory_ratio(found: dict[str, Any] | None, ours: str) -> float | None:
    """Peak memory of the reference over ours; None if either is not known.

    Of a reference that was killed, the most that it was seen to hold: the ratio is a lower bound.
    """
    peaks = [(found or {}).get(name, {}).get("peak_bytes") for name in ("reference", ours)]
    if (found or {}).get(ours, {}).get("failed"):
        return None
    return peaks[0] / peaks[1] if peaks[0] and peaks[1] else None


def gemm_share(measured: dict[str, Any], machine: dict[str, Any], name: str) -> float | None:
    """FLOPs of the matrix products a second, over the machine's GEMM peak in that arithmetic."""
    kind = "bf16" if name.endswith("bf16") else "fp32"
    peak = machine.get(f"gemm_peak_gflops_{kind}")
    rates = measured.get("tokens_per_s")
    if not peak or not rates:
        return None
    return float(measured["flops_per_token"] * median(rates) / (peak * 1e9))


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """The figures that goals are set for, then what they rest on."""
    machine = found["machine"]
    bf16 = machine["bf16_hardware"]
    auto = "kdcore-bf16" if bf16 else "kdcore-fp32"
    figures: dict[str, Any] = {}
    for goal in ("teacher", "distill"):
        duels = found.get(goal)
        figures[f"{goal}_speedup"] = speedup(duels, "kdcore-bf16", "reference")
        figures[f"{goal}_speedup_fp32"] = speedup(duels, "kdcore-fp32", "reference")
        for ours, suffix in (("kdcore-bf16", "tuned"), ("kdcore-fp32", "fp32_tuned")):
            figures[f"{goal}_speedup_{suffix}"] = speedup(duels, ours, _YARDSTICK[ours])
    memory = {"teacher": found.get("teacher", {}).get("reference"), "distill": found.get("memory")}
    for goal, peaks in memory.items():
        figures[f"{goal}_memory_ratio"] = memory_ratio(peaks, auto)
        figures[f"{goal}_memory_ratio_fp32"] = memory_ratio(peaks, "kdcore-fp32")
        killed = (peaks or {}).get("reference", {}).get("failed")
        if killed:
            figures[f"{goal}_memory_ratio_is_lower_bound"] = killed
    if "parity_failed" in found:
        figures["parity_failed"] = found["parity_failed"]
    if not bf16:
        figures["bf16_speedups_missing"] = NO_BF16
    return (
        figures
        | _parity_figures(found.get("parity", {}))
        | {
            "gemm_share": {
                goal: {
                    name: gemm_share(_pooled(found[goal], name), machine, name)
                    for name in _ORDER
                    if _first(found[goal], name)
                }
                for goal in ("teacher", "distill")
                if goal in found
            },
            "machine": machine,
            "settings": found["settings"],
            "measured": {k: found[k] for k in ("teacher", "distill", "memory") if k in found},
        }
    )


def _parity_figures(parity: dict[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for goal in ("teacher", "distill"):
        for kind, measured in parity.get(goal, {}).items():
            figures[f"{goal}_loss_difference_{kind}"] = measured["loss_max"]
            figures[f"{goal}_gradient_difference_{kind}"] = measured["gradient_max"]
            figures[f"{goal}_gradient_difference_global_{kind}"] = measured["gradient_global"]
    if parity:
        figures["parity"] = parity
    return figures


def _pooled(duels: dict[str, Any], name: str) -> dict[str, Any]:
    return {**_first(duels, name), "tokens_per_s": _all_rates(duels, name)}


# ------------------------------------------------------------------------------------------ table


def print_tables(found: dict[str, Any]) -> None:
    """One table a goal, and what the machine lacks."""
    console = Console(width=120)
    machine = found["machine"]
    peaks = [f"{machine['gemm_peak_gflops_fp32']:.0f} GFLOP/s in fp32"]
    if machine["gemm_peak_gflops_bf16"]:
        peaks.append(f"{machine['gemm_peak_gflops_bf16']:.0f} in bf16")
    console.print(
        f"{machine.get('gpu', machine['cpu'])}, {machine['cores']} cores, {machine['threads']} "
        f"threads, torch {machine['torch']}; GEMM peak {', '.join(peaks)}",
        highlight=False,
    )
    if not machine["bf16_hardware"]:
        console.print(f"bf16 is not timed: {NO_BF16}", highlight=False)
    for goal in ("teacher", "distill"):
        if goal in found:
            console.print(_goal_table(found, goal))
    if "memory" in found:
        console.print(_memory_table(found["memory"]))
    parity = found.get("parity")
    if parity:
        console.print(_parity_table(parity))


def _goal_table(found: dict[str, Any], goal: str) -> Table:
    table = Table(title=f"{goal}, {found['settings']['shape']} shape")
    for column in ("", "tokens/s", "min to max", "ratio", "to tuned", "of peak", "peak GiB"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_column("loss diff", justify="right")
    table.add_column("grad diff", justify="right")
    duels = found[goal]
    for name in _ORDER:
        measured = _first(duels, name)
        if not measured:
            continue
        if "failed" in measured:
            table.add_row(name, measured["failed"])
            continue
        rates = _all_rates(duels, name)
        share = gemm_share(_pooled(duels, name), found["machine"], name)
        differences = found.get("parity", {}).get(goal, {}).get(name.removeprefix("kdcore-"), {})
        table.add_row(
            name,
            f"{median(rates):,.0f}",
            f"{min(rates):,.0f} to {max(rates):,.0f}",
            _number(speedup(duels, name, "reference")),
            _number(speedup(duels, name, _YARDSTICK.get(name, name))),
            "" if share is None else f"{share:.0%}",
            f"{measured['peak_bytes'] / GIB:.2f}",
            _difference(differences.get("loss_max")),
            _difference(differences.get("gradient_max")),
        )
        if measured["busy_while_waiting"]:
            share = measured["busy_while_waiting"]
            table.caption = f"{name} took {share:.0%} of a core while it waited"
    return table


def _memory_table(memory: dict[str, Any]) -> Table:
    table = Table(title="largest distillation batch, one update in a fresh process")
    for column in ("", "peak GiB", "reference / this"):
        table.add_column(column, justify="left" if not column else "right")
    for name, measured in memory.items():
        failed = measured.get("failed")
        peak = f"{measured['peak_bytes'] / GIB:.2f}"
        ratio = _number(memory_ratio(memory, name))
        table.add_row(name, f"{failed}; at least {peak}" if failed else peak, ratio)
    return table


def _parity_table(parity: dict[str, Any]) -> Table:
    where = f"bf16 at the {parity['bf16_shape']} shape"
    emulated = ", emulated" if parity["bf16_emulated"] else ""
    table = Table(title=f"relative differences from the plain formulas in fp32 ({where}{emulated})")
    for column in ("", "", "loss, by term", "gradient, worst", "gradient, all"):
        table.add_column(column)
    for goal in ("teacher", "distill"):
        for kind, measured in parity[goal].items():
            name = "reference, autocast" if kind == "autocast" else f"kdcore-{kind}"
            terms = "  ".join(f"{term} {value:.1e}" for term, value in measured["loss"].items())
            worst = f"{measured['gradient_max']:.1e}"
            table.add_row(goal, name, terms, worst, f"{measured['gradient_global']:.1e}")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _difference(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
