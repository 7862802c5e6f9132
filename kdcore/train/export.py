"""Publishes a run's result: the HuggingFace folder, its model card and its manifest."""

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

import kdcore
from kdcore.config import RunConfig
from kdcore.data.tokenizers import TokenizerInfo
from kdcore.errors import disk_full, is_disk_full
from kdcore.figures import result_rows
from kdcore.files import (
    MANIFEST,
    Manifest,
    json_bytes,
    remove_temporary,
    replace_folder,
    write_atomically,
)
from kdcore.model.bert import NOTES_FILE, MaskedLM, shape_of, unite_biases
from kdcore.shapes import ModelShape
from kdcore.train.checkpoint import needed_bytes

Summary = dict[str, Any]


def versions() -> dict[str, str]:
    """Versions of the software that the numbers depend on."""
    return {
        "halflayer": kdcore.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def publish_result(
    out_dir: Path,
    config: RunConfig,
    model: MaskedLM,
    tokenizer: TokenizerInfo,
    summary: Summary,
    notes: dict[str, Any],
) -> ModelShape:
    """Write `out_dir`/model and `out_dir`/manifest.json, each complete or not at all.

    Returns the model's shape. `notes` is what later runs need to know about this checkpoint
    (`kdcore.model.bert.read_notes`). Raises DiskFull.
    """
    shape = shape_of(model, tokenizer.fingerprint)
    remove_temporary(out_dir)
    try:
        temporary = out_dir / f".tmp-model-{os.getpid()}"
        _write_model(temporary, config, model, tokenizer, summary | {"shape": asdict(shape)}, notes)
        replace_folder(temporary, out_dir / "model")
        with write_atomically(out_dir / MANIFEST) as file:
            file.write(Manifest.of(out_dir / "model").encoded())
    except Exception as error:
        remove_temporary(out_dir)
        if is_disk_full(error):
            raise disk_full(out_dir, needed_bytes(dict(model.named_parameters()))) from error
        raise
    return shape


def _write_model(
    folder: Path,
    config: RunConfig,
    model: MaskedLM,
    tokenizer: TokenizerInfo,
    summary: Summary,
    notes: dict[str, Any],
) -> None:
    unite_biases(model)
    model.eval().save_pretrained(folder)
    # So that pipelines truncate texts that are too long for the model.
    tokenizer.hf.model_max_length = model.config.max_position_embeddings
    tokenizer.hf.save_pretrained(folder)
    _rewrite_tokenizer_config(folder, model)
    saved_notes = {
        "format": 1,
        "kind": config.kind,
        "config": config.model_dump(mode="json"),
        "summary": {key: value for key, value in summary.items() if key != "report"},
        "versions": versions(),
        **notes,
    }
    (folder / NOTES_FILE).write_bytes(json_bytes(saved_notes))
    if "report" in summary:
        (folder / "prune_report.json").write_bytes(json_bytes(summary["report"]))
    (folder / "README.md").write_text(_model_card(config, summary), encoding="utf-8")


def _rewrite_tokenizer_config(folder: Path, model: MaskedLM) -> None:
    """Make it readable by transformers 4.57 as well, with the inputs that the model takes."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    core = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    # 4.57 reads a missing entry as false, and changes the pre-tokenizer accordingly.
    prefixed = (core["pre_tokenizer"] or {}).get("add_prefix_space")
    if prefixed is not None:
        config["add_prefix_space"] = prefixed
    # The one class that takes tokenizer.json as it is, under a name that both versions know.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    types = ["token_type_ids"] if model.config.model_type == "bert" else []
    config["model_input_names"] = ["input_ids", *types, "attention_mask"]
    # A list under this name is an error to 4.57; both versions read the other one.
    extra = config.pop("extra_special_tokens", None)
    if extra:
        config["additional_special_tokens"] = extra
    path.write_bytes(json_bytes(config))


def _model_card(config: RunConfig, summary: Summary) -> str:
    shown = {
        name: value
        for name, value in summary.items()
        if value is not None and name != "fresh_tensors"
    }
    cells = [(label, text.replace("|", r"\|")) for label, text in result_rows(shown)]
    rows = "\n".join(f"| {label} | {text} |" for label, text in cells)
    fresh = summary.get("fresh_tensors") or summary.get("report", {}).get("fresh", [])
    names = ", ".join(f"`{name}`" for name in fresh)
    random = f"\nRandomly initialised, not taken from a checkpoint: {names}.\n" if fresh else ""
    settings = json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [layerdrop, distillation, halflayer]
---

# {summary["role"].capitalize()} with {summary["layers"]} layers

Made by Halflayer {kdcore.__version__} ({config.kind}).
{random}
```python
from transformers import pipeline

fill = pipeline("fill-mask", "path/to/this/folder")
```

| metric | value |
|---|---|
{rows}

Eval loss is the MLM loss on held-out text, with uniform masks that are the same for every model.

## Configuration

```json
{settings}
```
"""
