"""One contestant in a process of its own: does one update whenever its pipe asks for one.

reference             the plain way, environment untouched
reference-tuned       the same with a faster allocator and oneDNN's switch
reference-tuned-bf16  the same under autocast
kdcore-fp32, kdcore-bf16
"""

import argparse
from pathlib import Path
from typing import Literal

import torch

from benchmarks.channel import Channel
from benchmarks.machine import use_fast_allocator
from benchmarks.shapes import SHAPES, TIMING_DROPOUT, Shape, shape

NAMES = ("reference", "reference-tuned", "reference-tuned-bf16", "kdcore-fp32", "kdcore-bf16")


def _run_reference(
    of: Shape, options: argparse.Namespace, channel: Channel, device: torch.device
) -> None:
    # Imported here: neither side may load, or be affected by, what only the other one needs.
    from transformers import BertForMaskedLM, DistilBertForMaskedLM  # noqa: PLC0415

    from benchmarks import reference  # noqa: PLC0415
    from benchmarks.recipes import read_batches, recipe_of  # noqa: PLC0415

    if options.name != "reference":
        use_fast_allocator()
        reference.tune_environment(device)
    work: Path = options.work
    batches = read_batches(work, options.goal)
    recipe = recipe_of(of, options.goal, len(batches), bf16=options.name.endswith("bf16"))
    teacher = BertForMaskedLM.from_pretrained(
        work / "teacher",
        hidden_dropout_prob=TIMING_DROPOUT,
        attention_probs_dropout_prob=TIMING_DROPOUT,
    )
    if options.goal == "teacher":
        model = reference.with_layer_drop(teacher, of.teacher.layer_drop)
        reference.train_teacher(model, batches, recipe, channel, device)
        return
    family = DistilBertForMaskedLM if of.prune.student_family == "distilbert" else BertForMaskedLM
    student = family.from_pretrained(work / "student")
    reference.train_student(student, teacher, batches, recipe, channel, device)


def _run_kdcore(
    of: Shape, options: argparse.Namespace, channel: Channel, device: torch.device
) -> None:
    from benchmarks import ours  # noqa: PLC0415 - see above

    if not options.unprepared:
        ours.prepare_process()
    precision: Literal["fp32", "bf16"] = "bf16" if options.name == "kdcore-bf16" else "fp32"
    ours.train(of, options.goal, options.work, precision, channel, device, TIMING_DROPOUT)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", choices=NAMES, required=True)
    parser.add_argument("--goal", choices=("teacher", "distill", "largest"), required=True)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--unprepared", action="store_true", help="leave kdcore's allocator setting out"
    )
    options = parser.parse_args()
    device = torch.device(options.device)
    channel = Channel(device)
    run = _run_reference if options.name.startswith("reference") else _run_kdcore
    run(shape(options.shape), options, channel, device)


if __name__ == "__main__":
    main()
