"""Time from starting a trainer to its first update, and the time to tokenise a corpus.

The trainer is started as the worker starts it, on the demo's teacher with its corpus cached: cold,
and with a process that has stood by for a while, as it does between a worker's runs. What
its events tell splits the time: imports, reading the text, building the model, the first update.
The text to tokenise is as large as WikiText-2's training split: the sample, repeated and cut.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.shapes import BUILD, CACHE, ROOT, SHAPES, shape
from kdcore.config import FileCorpus, SampleCorpus
from kdcore.data.corpora import open_corpus
from kdcore.data.token_cache import tokenise
from kdcore.data.tokenizers import load_tokenizer
from kdcore.events import ListSink
from kdcore.inputs import NO_INPUTS
from worker.trainer_process import Standby, Trainer, trainer_command
from worker.workspace import Workspace

FIRST_UPDATE_GOAL_S, TOKENISING_GOAL_S = 5.0, 20.0
WIKITEXT_2_BYTES = 10_800_000
_GIVE_UP_S = 300.0
_STAND_BY_S = 15.0
"""More than its imports take, on a busy machine too."""


def _events(workspace: Workspace) -> list[dict[str, Any]]:
    if not workspace.events.exists():
        return []
    lines = workspace.events.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _is_first_update(event: dict[str, Any]) -> bool:
    training = event["type"] == "progress" and event["phase"] == "training"
    return training and int(event["done"]) >= 1


def first_update(shape_name: str, device: str, *, stood_by: bool) -> dict[str, float]:
    """Seconds from the trainer's start to each of its first events."""
    config = shape(shape_name).teacher
    standby = Standby() if stood_by else None
    if standby is not None:
        standby.prepare()
        time.sleep(_STAND_BY_S)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        workspace = Workspace(Path(folder), attempt=1)
        workspace.create()
        workspace.write_config(config, NO_INPUTS)
        start_s = time.time()
        command = trainer_command(workspace, CACHE, device)
        trainer = Trainer(command, workspace, 1.0, standby)
        try:
            while not any(map(_is_first_update, _events(workspace))):
                if trainer.poll() is not None or time.time() - start_s > _GIVE_UP_S:
                    raise RuntimeError(workspace.stderr.read_text(encoding="utf-8"))
                time.sleep(0.01)
        finally:
            trainer.kill()
            trainer.end()
        events = _events(workspace)
    at = {
        "started": next(e for e in events if e["type"] == "started"),
        "text read": next(e for e in events if "training tokens" in e.get("message", "")),
        "model ready": next(e for e in events if e.get("message", "").startswith("training on")),
        "first update": next(filter(_is_first_update, events)),
    }
    return {name: event["time_s"] - start_s for name, event in at.items()}


def import_times() -> dict[str, float]:
    """Seconds to import each of the big parts after the one before, in one fresh process."""
    modules = ("kdcore.cli", "torch", "transformers", "kdcore.model.bert", "kdcore.run")
    code = (
        "import importlib, json, time\n"
        "found, start = {}, time.perf_counter()\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    now = time.perf_counter()\n"
        "    found[name], start = now - start, now\n"
        "print(json.dumps(found))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    times: dict[str, float] = json.loads(done.stdout)
    return times


def tokenising(size_bytes: int, vocab_size: int) -> dict[str, float]:
    """Seconds to tokenise so much of the sample; training the vocabulary is not part of it."""
    sample = open_corpus(SampleCorpus())
    sink = ListSink()
    wordpiece = shape("published").teacher.tokenizer.model_copy(update={"vocab_size": vocab_size})
    tokens = load_tokenizer(wordpiece, sample, CACHE, sink, None)
    documents = [" ".join(document.split()) for document in sample.documents("train")]
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        path = Path(folder) / "text.txt"
        written = 0
        with open(path, "w", encoding="utf-8") as file:
            while written < size_bytes:
                for document in documents:
                    written += file.write(document + "\n")
                    if written >= size_bytes:
                        break
        corpus = open_corpus(FileCorpus(path=str(path), validation_path=str(path)))
        start_s = time.perf_counter()
        split = tokenise(corpus, tokens, "train", Path(folder), sink)
        elapsed_s = time.perf_counter() - start_s
        count = len(split.token_ids)
        del split
    return {"bytes": float(written), "tokens": float(count), "elapsed_s": elapsed_s}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--bytes", type=int, default=WIKITEXT_2_BYTES)
    parser.add_argument("--vocab-size", type=int, default=30_522)
    options = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    first_update(options.shape, options.device, stood_by=False)  # fills the cache
    best, every = {}, {}
    for name, stood_by in (("cold", False), ("stood by", True)):
        runs = [
            first_update(options.shape, options.device, stood_by=stood_by)
            for _ in range(options.repeats)
        ]
        best[name] = min(runs, key=lambda run: run["first update"])
        every[name] = [run["first update"] for run in runs]
        for event, at_s in best[name].items():
            print(f"{at_s:6.2f} s  {event}, {name}")
    imports = import_times()
    for name, took_s in imports.items():
        print(f"{took_s:6.2f} s  import {name}")
    text = tokenising(options.bytes, options.vocab_size)
    print(f"{text['elapsed_s']:6.2f} s  to tokenise {text['bytes'] / 1e6:.1f} MB")
    figures = {
        "first_update_s": best,
        "first_update_all_s": every,
        "first_update_goal_s": FIRST_UPDATE_GOAL_S,
        "imports_s": imports,
        "tokenising": text,
        "tokenising_goal_s": TOKENISING_GOAL_S,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
