"""What Halflayer saves, loaded without any of its code by the oldest supported transformers and by
the locked one: the same tokens and logits, and a fill-mask pipeline."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import BertForMaskedLM, BertTokenizer

from kdcore.config import (
    DistillConfig,
    DistillLines,
    DistillSchedule,
    FileCorpus,
    FolderCheckpoint,
    FolderTokenizer,
    ModelTokenizer,
    Optimiser,
    PruneConfig,
    RunConfig,
    Schedule,
    TeacherConfig,
    Tokenizer,
    WordPieceTokenizer,
)
from kdcore.data.tokenizers import SPECIAL_TOKENS
from kdcore.events import ListSink
from kdcore.run import execute
from tests.fixtures.configs import tiny_model
from tests.fixtures.missing import skip_or_fail
from tests.kdcore.conftest import TOPICS

pytestmark = pytest.mark.integration

OLDEST = Path(__file__).parents[2] / "build" / "compat" / "site"
TEXTS = [
    "The River, a [MASK] and no fish!",
    "naïve Straße 水 [USER] King [SEP] water",
    "king and water",
    "x",
]
CODE = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import torch, transformers
found = {"version": transformers.__version__}
for folder in sys.argv[3:]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    family = transformers.AutoModelForMaskedLM
    model, info = family.from_pretrained(folder, output_loading_info=True)
    fill = transformers.pipeline("fill-mask", folder)
    texts = json.loads(sys.argv[2])
    inputs = [tokenizer(text, return_tensors="pt", truncation=True) for text in texts]
    with torch.no_grad():
        logits = [model(**each).logits[0] for each in inputs]
    found[folder] = {
        "missing": sorted(info["missing_keys"]),
        "names": sorted(inputs[0]),
        "ids": [each["input_ids"][0].tolist() for each in inputs],
        "special": sorted(tokenizer.all_special_tokens),
        "max_length": tokenizer.model_max_length,
        "logits": [each.tolist() for each in logits],
        "guesses": [guess["token_str"] for guess in fill("the king " + tokenizer.mask_token)],
    }
assert not [name for name in sys.modules if name.split(".")[0] in ("app", "kdcore", "worker")]
print(json.dumps(found))
"""


def bare(folders: list[Path], *site: Path) -> dict[str, Any]:
    """What a process with transformers, and none of our code, finds in each folder."""
    arguments = [json.dumps([str(each) for each in site]), json.dumps(TEXTS), *map(str, folders)]
    done = subprocess.run(
        [sys.executable, "-I", "-c", CODE, *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=folders[0],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def vocabulary() -> dict[str, int]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*SPECIAL_TOKENS, *",.![]", *letters, *(f"##{letter}" for letter in letters)]
    words = sorted({word for topic in TOPICS for word in topic})
    return {piece: index for index, piece in enumerate([*pieces, *words])}


def uploaded_tokenizer(folder: Path) -> Path:
    """A bare tokenizer.json with an added special token, as the tokenizers library saves it."""
    core = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary(), unk_token="[UNK]"))
    core.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    core.add_special_tokens([*SPECIAL_TOKENS, "[USER]"])
    folder.mkdir()
    core.save(str(folder / "tokenizer.json"))
    return folder


def byte_level_tokenizer(folder: Path) -> Path:
    """A BPE of bytes that takes the beginning of a text for one of a word."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" ".join(topic) for topic in TOPICS] * 5, trainer)
    folder.mkdir()
    core.save(str(folder / "tokenizer.json"))
    return folder


def saved_tokenizer(folder: Path) -> Path:
    """A folder of transformers' own, with a special token beyond the five."""
    BertTokenizer(vocab=vocabulary(), extra_special_tokens=["[USER]"]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def results(
    corpus: FileCorpus, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """By name: the folder of a published checkpoint."""
    folder = tmp_path_factory.mktemp("results")

    def run(name: str, config: RunConfig) -> FolderCheckpoint:
        execute(config, folder / name, ListSink(), cache_dir=cache_dir, device="cpu")
        return FolderCheckpoint(path=str(folder / name / "model"))

    def teacher(name: str, tokenizer: Tokenizer, **model: Any) -> FolderCheckpoint:
        config = TeacherConfig.model_validate(
            {
                "model": model or tiny_model(layers=2),
                "corpus": corpus,
                "tokenizer": tokenizer,
                "seq_len": 16,
                "schedule": Schedule(batch_size=4, max_steps=1),
                "optimiser": Optimiser(learning_rate=0.01),
            }
        )
        return run(name, config)

    wordpiece = teacher("teacher", WordPieceTokenizer(vocab_size=300))
    pruned = run("pruned", PruneConfig(teacher=wordpiece))
    run("pruned bert", PruneConfig(teacher=wordpiece, student_family="bert"))
    run(
        "student",
        DistillConfig(
            teacher=wordpiece,
            student=pruned,
            corpus=corpus,
            lines=DistillLines(min_tokens=5),
            schedule=DistillSchedule(batch_size=4, max_steps=1),
        ),
    )
    # An untied decoder whose bias has been trained.
    untied = BertForMaskedLM.from_pretrained(wordpiece.path, tie_word_embeddings=False)
    untied.cls.predictions.decoder.bias.data.normal_()
    untied.cls.predictions.decoder.weight.data.normal_()
    start = folder / "untied start"
    untied.save_pretrained(start)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (start / name).write_bytes((Path(wordpiece.path) / name).read_bytes())
    trained = teacher("untied", ModelTokenizer(), source="folder", path=str(start))
    run("untied pruned", PruneConfig(teacher=trained))
    for name, tokenizer in (
        ("uploaded", uploaded_tokenizer(folder / "upload")),
        ("saved", saved_tokenizer(folder / "hub")),
        ("bytes", byte_level_tokenizer(folder / "bytes upload")),
    ):
        run(
            f"{name} pruned",
            PruneConfig(teacher=teacher(name, FolderTokenizer(path=str(tokenizer)))),
        )
    return {path.parent.name: path for path in sorted(folder.glob("*/model"))}


def test_old_and_new_transformers_load_the_same(results: dict[str, Path]) -> None:
    if not OLDEST.is_dir():
        skip_or_fail("no older transformers to load checkpoints with: make setup-compat")
    folders = list(results.values())
    old, new = bare(folders, OLDEST), bare(folders)
    assert old.pop("version").startswith("4.57.")
    assert new.pop("version").startswith("5.")
    for name, folder in results.items():
        ours, theirs = old[str(folder)], new[str(folder)]
        logits = [pytest.approx(row, abs=1e-4) for text in theirs.pop("logits") for row in text]
        assert [row for text in ours.pop("logits") for row in text] == logits, name
        assert ours == theirs, name
        assert theirs["missing"] == []
        config = json.loads((folder / "config.json").read_text())
        types = ["token_type_ids"] if config["model_type"] == "bert" else []
        assert theirs["names"] == ["attention_mask", "input_ids", *types], name
        assert theirs["max_length"] == 32
        assert len(theirs["guesses"]) == 5
        assert ("[USER]" in theirs["special"]) == name.startswith("saved")
