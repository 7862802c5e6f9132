"""Text, models and batches of a shape, the same for every contestant; measures nothing.

`python -m benchmarks.work` writes a work folder: `teacher/` and `student/` (HuggingFace format) and
`<goal>-<update>.npz`, the batches of each goal's first updates as kdcore draws them.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, BertForMaskedLM, DistilBertForMaskedLM

from benchmarks.shapes import CACHE, EXCERPT, EXCERPT_DOCUMENTS, SHAPES, Shape, shape
from kdcore.config import SampleCorpus
from kdcore.data.batching import Lines, lines, pack
from kdcore.data.corpora import open_corpus
from kdcore.data.token_cache import TokenisedSplit, token_counts, tokenise
from kdcore.data.tokenizers import TokenizerInfo, load_tokenizer
from kdcore.events import ListSink
from kdcore.loss.objectives import DistillObjective, MlmObjective
from kdcore.model.bert import MaskedLM, build_teacher
from kdcore.model.prune import prune

Goal = Literal["teacher", "distill", "largest"]
GOALS: tuple[Goal, ...] = ("teacher", "distill", "largest")
Arrays = dict[str, npt.NDArray[np.int64]]
_LOGIT_SPREAD = 1.5
"""Standard deviation of the models' logits, about that of a trained model's."""


@dataclass(frozen=True)
class BenchText:
    """The sample, cut into tokens."""

    tokenizer: TokenizerInfo
    train: TokenisedSplit


def read_text(of: Shape) -> BenchText:
    """The training text of a shape, from the benchmarks' cache if it is there."""
    if of.name == "tiny" and not EXCERPT.exists():
        _write_excerpt()
    corpus, sink = open_corpus(of.teacher.corpus), ListSink()
    tokens = load_tokenizer(of.teacher.tokenizer, corpus, CACHE, sink, None)
    return BenchText(tokens, tokenise(corpus, tokens, "train", CACHE, sink))


def _write_excerpt() -> None:
    documents = islice(open_corpus(SampleCorpus()).documents("train"), EXCERPT_DOCUMENTS)
    text = "\n".join(" ".join(document.split()) for document in documents)
    CACHE.mkdir(parents=True, exist_ok=True)
    EXCERPT.write_text(text, encoding="utf-8")


def load_model(folder: Path, dropout: float) -> MaskedLM:
    """The model of a work folder, with this dropout rate everywhere."""
    config = AutoConfig.from_pretrained(folder)
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
    for name in names:
        if hasattr(config, name):
            setattr(config, name, dropout)
    family = BertForMaskedLM if config.model_type == "bert" else DistilBertForMaskedLM
    model: MaskedLM = family.from_pretrained(folder, config=config, dtype=torch.float32)
    return model


def mlm_objective(of: Shape, model: MaskedLM, text: BenchText) -> MlmObjective:
    return MlmObjective(of.teacher, model, text.tokenizer, pack(text.train, of.teacher.seq_len))


def distil_objective(
    of: Shape, student: MaskedLM, teacher: MaskedLM, text: BenchText, goal: Goal
) -> DistillObjective:
    """The distillation of `goal`: 'distill' on the text's lines, 'largest' on the longest batch."""
    config = of.distill_config(Path("teacher"), Path("student"), largest=goal == "largest")
    longest = of.model.max_positions
    read = (
        _equally_long(text, of.largest_line)
        if goal == "largest"
        else lines(text.train, text.tokenizer, config.lines, longest)
    )
    counts = token_counts(text.train, of.vocab_size)
    return DistillObjective(config, student, teacher, text.tokenizer, read, counts)


def _equally_long(text: BenchText, length: int) -> Lines:
    """Running text cut into lines of `length` tokens, [CLS] and [SEP] included."""
    ids = np.asarray(text.train.token_ids)
    starts = np.arange(0, len(ids) - length, length - 2, dtype=np.int64)
    lengths = np.full(len(starts), length, np.int64)
    return Lines(lengths, starts, ids, text.tokenizer.cls_id, text.tokenizer.sep_id)


def write_work(of: Shape, work: Path, updates: int) -> dict[Goal, list[int]]:
    """Fill a work folder; returns the non-padding tokens of every update of each goal."""
    text = read_text(of)
    teacher = build_teacher(of.model, of.vocab_size, text.tokenizer.pad_id, of.teacher.seed)
    # Fresh weights predict almost uniformly, whatever they read: their divergence would be a
    # difference of nearly equal numbers, and a poor thing to compare.
    noise = _LOGIT_SPREAD / of.model.hidden_size**0.5
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    student, _ = prune(teacher, of.prune)
    teacher.save_pretrained(work / "teacher")
    student.save_pretrained(work / "student")
    mlm = mlm_objective(of, teacher, text)
    tokens: dict[Goal, list[int]] = {goal: [] for goal in GOALS}
    for step in range(min(updates, mlm.batches_per_epoch)):
        batch = mlm.batch(0, step)
        _save(work, "teacher", step, {"ids": batch.ids, "labels": batch.labels})
        tokens["teacher"].append(int(batch.ids.size))
    for goal in GOALS[1:]:
        objective = distil_objective(of, student, teacher, text, goal)
        for step in range(1 if goal == "largest" else min(updates, objective.batches_per_epoch)):
            lines_batch = objective.batch(0, step)
            arrays = {
                "ids": lines_batch.ids,
                "labels": lines_batch.labels,
                "attention_mask": lines_batch.attention_mask,
            }
            _save(work, goal, step, arrays)
            tokens[goal].append(int(lines_batch.attention_mask.sum()))
    return tokens


def _save(work: Path, goal: Goal, step: int, arrays: Arrays) -> None:
    np.savez(work / f"{goal}-{step}.npz", **arrays)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--updates", type=int, required=True)
    options = parser.parse_args()
    tokens = write_work(shape(options.shape), options.work, options.updates)
    json.dump(tokens, sys.stdout)


if __name__ == "__main__":
    main()
