"""The recipe the plain way, from its published formulas and with stock parts; knows no kdcore.

Teacher: `transformers.Trainer` on `BertForMaskedLM`, its layers in a LayerDrop list. Distillation:
full logits of both models at every position, boolean copies of the positions that count, and
torch's own losses (Sanh et al. 2019, arXiv:1910.01108). Batches come ready made.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name
from torch import Tensor, nn
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from benchmarks.channel import Channel, Request
from benchmarks.machine import gemm_gflops, matmul_setting, matmul_settings, set_matmul

Batch = dict[str, Tensor]
"""ids, labels and, for lines, attention_mask; all (n, tokens) int64."""
_NO_DECAY = ("bias", "LayerNorm.weight", "layer_norm.weight")


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training; names as in the papers."""

    learning_rate: float
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float
    clip_norm: float
    warmup_fraction: float
    total_steps: int
    temperature: float = 2.0
    alpha_ce: float = 5.0
    alpha_mlm: float = 2.0
    alpha_cos: float = 1.0
    freeze_positions: bool = True
    bf16: bool = False
    """Under autocast."""


def tune_environment(device: torch.device) -> str:
    """oneDNN's fp32 switch at its fastest exact value, which is returned."""
    if device.type != "cpu":
        return "none"
    rates = {}
    for setting in matmul_settings():
        with matmul_setting(setting):
            rates[setting] = gemm_gflops((1024, 768, 768), torch.float32, device, 0.3)
    best = max(rates, key=lambda setting: rates[setting])
    set_matmul(best)
    return best


# ---------------------------------------------------------------------------------------- teacher


class LayerDropList(nn.ModuleList):
    """Layers of which, in training, each is left out with probability p (Fan et al. 2019)."""

    def __init__(self, p: float, layers: nn.ModuleList) -> None:
        super().__init__(layers)
        self.p = p

    def __iter__(self) -> Iterator[nn.Module]:
        draws = torch.rand(len(self))
        for layer, draw in zip(super().__iter__(), draws.tolist(), strict=True):
            if not self.training or draw >= self.p:
                yield layer


def with_layer_drop(model: Any, p: float) -> Any:
    """A BERT whose encoder drops layers."""
    model.bert.encoder.layer = LayerDropList(p, model.bert.encoder.layer)
    return model


def mlm_terms(model: Any, batch: Batch) -> dict[str, Tensor]:
    """The loss that `BertForMaskedLM` computes itself."""
    return {"loss": model(input_ids=batch["ids"], labels=batch["labels"]).loss}


class _Finished(Exception):
    """No further update is asked for."""


class _OneAtATime(TrainerCallback):  # type: ignore[misc]
    """Lets a Trainer wait before each update until it is asked for."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._request = channel, Request(0)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._channel.ready()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        request = self._channel.next()
        if request is None:
            raise _Finished
        self._channel.begin(request)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._channel.end()


class _ReadyBatches(Trainer):  # type: ignore[misc]
    """A Trainer that takes batches as they are, in their order."""

    def get_train_dataloader(self) -> Any:
        return self.train_dataset


def train_teacher(
    model: Any, batches: list[Batch], recipe: Recipe, channel: Channel, device: torch.device
) -> None:
    """Give a Trainer the batches, one update at a time."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=len(batches),
            per_device_train_batch_size=len(batches[0]["ids"]),
            learning_rate=recipe.learning_rate,
            adam_beta1=recipe.betas[0],
            adam_beta2=recipe.betas[1],
            adam_epsilon=recipe.epsilon,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.clip_norm,
            warmup_steps=int(recipe.warmup_fraction * recipe.total_steps),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=device.type == "cpu",
            bf16=recipe.bf16,
        )
        inputs = [{"input_ids": b["ids"], "labels": b["labels"]} for b in batches]
        trainer = _ReadyBatches(
            model=model, args=arguments, train_dataset=inputs, callbacks=[_OneAtATime(channel)]
        )
        try:
            trainer.train()
        except _Finished:
            return
        channel.next()


# ----------------------------------------------------------------------------------- distillation


def distil_terms(student: Any, teacher: Any, batch: Batch, recipe: Recipe) -> dict[str, Tensor]:
    """The triple loss and its terms: 'loss', 'ce', 'mlm', 'cos', scalars."""
    inputs = {"input_ids": batch["ids"], "attention_mask": batch["attention_mask"]}
    ours = student(**inputs, output_hidden_states=True)
    with torch.no_grad():
        theirs = teacher(**inputs, output_hidden_states=True)
    here = batch["attention_mask"].bool().unsqueeze(-1)
    vocab = ours.logits.size(-1)
    chosen = here.expand_as(ours.logits)
    ours_chosen = torch.masked_select(ours.logits, chosen).view(-1, vocab)
    theirs_chosen = torch.masked_select(theirs.logits, chosen).view(-1, vocab)
    t = recipe.temperature
    divergence = nn.KLDivLoss(reduction="batchmean")(
        F.log_softmax(ours_chosen / t, dim=-1), F.softmax(theirs_chosen / t, dim=-1)
    )
    ce = divergence * t**2
    mlm = nn.CrossEntropyLoss(ignore_index=-100)(
        ours.logits.view(-1, vocab), batch["labels"].view(-1)
    )
    hidden = ours.hidden_states[-1]
    width = hidden.size(-1)
    of_hidden = here.expand_as(hidden)
    ours_hidden = torch.masked_select(hidden, of_hidden).view(-1, width)
    theirs_hidden = torch.masked_select(theirs.hidden_states[-1], of_hidden).view(-1, width)
    target = torch.ones(len(ours_hidden), device=hidden.device)
    cos = nn.CosineEmbeddingLoss(reduction="mean")(ours_hidden, theirs_hidden, target)
    loss = recipe.alpha_ce * ce + recipe.alpha_mlm * mlm + recipe.alpha_cos * cos
    return {"loss": loss, "ce": ce, "mlm": mlm, "cos": cos}


def freeze_positions(student: Any) -> None:
    """The position embeddings stay as they are."""
    student.base_model.embeddings.position_embeddings.weight.requires_grad_(False)


def train_student(
    student: Any,
    teacher: Any,
    batches: list[Batch],
    recipe: Recipe,
    channel: Channel,
    device: torch.device,
) -> None:
    """A plain loop: one update whenever it is asked for."""
    if recipe.freeze_positions:
        freeze_positions(student)
    student.to(device).train()
    teacher.to(device).eval().requires_grad_(False)
    named = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
    plain = [p for name, p in named if name.endswith(_NO_DECAY)]
    decayed = [p for name, p in named if not name.endswith(_NO_DECAY)]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.epsilon,
    )
    warmup = int(recipe.warmup_fraction * recipe.total_steps)
    schedule = get_linear_schedule_with_warmup(optimiser, warmup, recipe.total_steps)
    channel.ready()
    while (request := channel.next()) is not None:
        channel.begin(request)
        batch = {name: array.to(device) for name, array in batches[request.step].items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            loss = distil_terms(student, teacher, batch, recipe)["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([p for _, p in named], recipe.clip_norm)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        channel.end()
