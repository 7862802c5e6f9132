"""Ids, addresses and checkpoints that would make the server fetch or run something: refused."""

import json
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM

from app.cli.client import Json
from faults.figures import Figure, Row
from faults.installation import ROOT, Installation, installation
from faults.trial import Trial
from faults.watching import Watch
from kdcore.presets import preset

LABELS = ("models--team--model",)
"""No id, but a name that a branch or a split may have."""
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "la"]


class Canary:
    """Listens on a loopback port and counts connections."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.hits = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.hits += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


# ----------------------------------------------------------------------------- ids and addresses


def hostile_ids(port: int, folder: Path) -> list[str]:
    """What no hub id is: addresses, paths, other schemes, look-alikes."""
    return [
        f"http://127.0.0.1:{port}/model",
        f"https://127.0.0.1:{port}/model",
        f"127.0.0.1:{port}/model",
        f"//127.0.0.1:{port}/model",
        f"user@127.0.0.1:{port}",
        f"hf://127.0.0.1:{port}/model",
        f"hf://datasets/127.0.0.1:{port}/x",
        f"ftp://127.0.0.1:{port}/",
        f"s3://127.0.0.1:{port}/x",
        f"file://{folder}",
        str(folder),
        "./model",
        "../../../etc",
        "team/../../etc",
        "..",
        "team/..",
        "a/b/c",
        "team\\model",
        "C:\\model",
        "team/model\n",
        "team/model\0",
        " team/model",
        "team/model?x=y",
        "team/model#x",
        "team/model@main",
        "team/%2e%2e",
        "models--team--model",
        "-rf",
        ".hidden",
        "t\u0435am/model",  # a Cyrillic letter
        "team\uff0fmodel",  # a full-width slash
        "team\u2044model",
        "\u202eledom/maet",
        "a" * 97,
        "",
    ]


def _configs() -> Iterator[tuple[tuple[str, ...], Json]]:
    """(where an id stands, config) for every place of every kind that takes one."""
    run_id = {"source": "run", "run_id": "0" * 12}
    pipeline = preset("demo").config.model_dump(mode="json")
    bases: dict[str, Json] = {
        "teacher": pipeline["teacher"] | {"kind": "teacher"},
        "prune": pipeline["prune"] | {"kind": "prune", "teacher": run_id},
        "distill": pipeline["distill"] | {"kind": "distill", "teacher": run_id, "student": run_id},
    }
    places = {
        "teacher": ("model", "corpus", "tokenizer"),
        "prune": ("teacher",),
        "distill": ("teacher", "student", "corpus"),
    }
    for kind, names in places.items():
        for name in names:
            keys = ("name", "config", "train_split") if name == "corpus" else ("name", "revision")
            for key in keys:
                config = deepcopy(bases[kind])
                config[name] = {"source": "hub", "name": "team/model"}
                yield (name, key), config


def refuse_ids(stand: Installation, canary: Canary) -> tuple[int, list[str]]:
    """How many configs were sent, and which of them were not refused as a mistake in that field."""
    sent, taken = 0, []
    for place, config in _configs():
        for hostile_id in hostile_ids(canary.port, stand.folder):
            if place[1] != "name" and hostile_id in LABELS:
                continue
            tried = deepcopy(config)
            tried[place[0]][place[1]] = hostile_id
            answer = stand.http.post("/runs", content=json.dumps({"config": tried}), headers=JSON)
            sent += 1
            pointers = [each["pointer"] for each in answer.json().get("errors", [])]
            if answer.status_code != 422 or f"/config/{'/'.join(place)}" not in pointers:
                taken.append(f"{'/'.join(place)} {hostile_id!a}: {answer.status_code} {pointers}")
    for source, key in (("folder", "path"), ("file", "path"), ("url", "url")):
        for place, config in _configs():
            tried = deepcopy(config)
            tried[place[0]] = {"source": source, key: str(stand.folder)}
            answer = stand.http.post("/runs", json={"config": tried})
            sent += 1
            if answer.status_code != 422:
                taken.append(f"{place[0]} from a {source}: {answer.status_code}")
    return sent, taken


JSON = {"Content-Type": "application/json"}


# ------------------------------------------------------------------------------------ checkpoints


class Payload:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


def checkpoints(folder: Path, marks: Path, port: int) -> Iterator[tuple[str, Path, bool]]:
    """(what is wrong with it, its folder, whether it may load all the same) of each checkpoint."""
    code = "from pathlib import Path\nPath({!r}).touch()\n"
    address = f"http://127.0.0.1:{port}/x"
    honest = _honest(folder / "honest")

    def variant(name: str, **config: Any) -> Path:
        made = folder / name
        shutil.copytree(honest, made)
        path = made / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return made

    def pickled(path: Path) -> None:
        mark = marks / f"{path.parent.name}-{path.name}"
        path.write_bytes(pickle.dumps({"weights": Payload(mark)}))

    def scripted(path: Path) -> None:
        path.write_text(code.format(str(marks / f"{path.parent.name}-{path.name}")))

    yield "nothing", honest, True

    made = variant("pickle-only")
    (made / "model.safetensors").unlink()
    pickled(made / "pytorch_model.bin")
    yield "only pickled weights", made, False

    made = variant("torch-only")
    (made / "model.safetensors").unlink()
    torch.save({"weights": Payload(marks / "torch-only")}, made / "pytorch_model.bin")
    yield "only torch.save'd weights", made, False

    made = variant("pickle-renamed")
    pickled(made / "model.safetensors")
    yield "a pickle named model.safetensors", made, False

    made = variant("pickle-beside")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        pickled(made / name)
    yield "pickles beside good weights", made, True

    made = variant("index")
    (made / "model.safetensors").unlink()
    weights = {"bert.embeddings.word_embeddings.weight": "evil.bin"}
    (made / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weights})
    )
    pickled(made / "evil.bin")
    yield "an index that names a pickle", made, False

    made = variant("explicit", transformers_weights="pytorch_model.bin")
    pickled(made / "pytorch_model.bin")
    yield "a config that names a pickle", made, True

    auto = {"AutoConfig": "evil.Config", "AutoModelForMaskedLM": "evil.Model"}
    for model_type in ("bert", "evil"):
        made = variant(f"code-{model_type}", auto_map=auto, model_type=model_type)
        scripted(made / "evil.py")
        yield f"custom code under the type {model_type}", made, model_type == "bert"

    made = variant("code-elsewhere", auto_map={"AutoConfig": f"{address}--evil.Config"})
    yield "custom code from an address", made, True

    made = variant("named", _name_or_path=address, base_model_name_or_path=address)
    (made / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": address, "peft_type": "LORA"})
    )
    yield "a base model at an address", made, False

    made = variant("kernel", _attn_implementation="team/kernel", attn_implementation="team/kernel")
    yield "a kernel from the hub", made, True

    made = variant("quantised", quantization_config={"quant_method": "gptq", "dataset": address})
    yield "a quantisation that calibrates on an address", made, True

    made = variant("tokenizer-code")
    scripted(made / "tokenization_evil.py")
    (made / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "EvilTokenizer",
                "auto_map": {"AutoTokenizer": ["tokenization_evil.EvilTokenizer", None]},
                "name_or_path": address,
            }
        )
    )
    yield "a tokenizer with code", made, True


def _honest(folder: Path) -> Path:
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


LOAD = """
import json, sys
from pathlib import Path
from kdcore.config import FolderCheckpoint
from kdcore.errors import KdcoreError
from kdcore.model.bert import checkpoint_folder, load_model, read_notes
from kdcore.data.tokenizers import tokens_from_folder
answers = {}
for name in sys.argv[1:]:
    for part in ("model", "tokenizer"):
        try:
            folder = checkpoint_folder(FolderCheckpoint(path=name))
            read_notes(folder)
            load_model(folder) if part == "model" else tokens_from_folder(folder)
            answers[name + " " + part] = ""
        except KdcoreError as error:
            answers[name + " " + part] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""


def load_all(folders: list[Path], watch: Watch, port: int, home: Path) -> dict[str, str]:
    """What kdcore, in a process that is watched, says to each folder; empty if it loads."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, folders)],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "HF_HOME": str(home),
            # As it is on most machines: the hub may be asked, and would be seen to be.
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "NO_PROXY": "*",
            "OMP_NUM_THREADS": "1",
            **watch.environment,
            "PYTHONPATH": f"{watch.environment['PYTHONPATH']}:{ROOT}",
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def canaries(trial: Trial) -> Iterator[Row]:
    """First what a client may send, then what a folder on the machine may hold."""
    folder = trial.new_folder("canaries")
    watch = Watch(folder / "api.log")
    canary = Canary()
    with installation(
        folder / "stand", workers=0, HF_HUB_OFFLINE="0", **watch.environment
    ) as stand:
        sent, taken = refuse_ids(stand, canary)
        strangers = _strangers(watch, stand.broker_proxy.port)
    assert watch.watched()
    facts = {"first": "; ".join(taken[:3]).replace("|", "/")} if taken else {}
    yield Row(
        "hub ids that are addresses, paths, other schemes or look-alikes; local paths over REST",
        sent,
        "422, with the field's name",
        [
            Figure("ids_taken", len(taken)),
            Figure("outbound_hits", canary.hits + len(strangers)),
            Figure("executions", len(watch.executed())),
        ],
        facts,
    )
    yield _checkpoints(trial, folder, canary)
    canary.close()


def _strangers(watch: Watch, *ports: int) -> list[str]:
    ours = ("127.0.0.1", *(f"('127.0.0.1', {port})" for port in ports))
    return [each for each in watch.connections() if each not in ours]


def _checkpoints(trial: Trial, folder: Path, canary: Canary) -> Row:
    trial.say("canaries: checkpoints")
    marks, home, places = folder / "marks", folder / "home", folder / "checkpoints"
    for each in (marks, home, places):
        each.mkdir()
    made = list(checkpoints(places, marks, canary.port))
    watch = Watch(folder / "kdcore.log")
    answers = load_all([path for _, path, _ in made], watch, canary.port, home)
    assert watch.watched()
    wrong = [
        f"{what} ({part}): {answer or 'loaded'}"
        for what, path, may_load in made
        for part, answer in ((p, answers[f"{path} {p}"]) for p in ("model", "tokenizer"))
        if (what == "nothing" and answer) or (part == "model" and not may_load and not answer)
    ]
    ran = [path.name for path in marks.iterdir()]
    unpickled = [name for name in watch.unpickled() if not name.startswith("collections.")]
    facts: dict[str, Any] = {"refused": sum(bool(each) for each in answers.values())}
    if found := [*wrong, *ran, *unpickled, *watch.connections()]:
        facts["first"] = "; ".join(found[:3]).replace("|", "/")
    return Row(
        "checkpoints with pickles, custom code, kernels, and addresses, loaded from a folder",
        len(made),
        "refused with a message, or loaded without them",
        [
            Figure("executions", len(ran) + len(unpickled)),
            Figure("outbound_hits", canary.hits + len(watch.connections())),
            Figure("wrongly_loaded", len(wrong)),
        ],
        facts,
    )
