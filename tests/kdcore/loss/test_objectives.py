"""The objectives against both models' full logits and the public recipe's formulas."""

import numpy as np
import pytest
import torch
from torch import nn

import kdcore.loss.objectives as objectives_module
from kdcore.config import (
    DistillConfig,
    DistillLoss,
    DistillOptions,
    DistillSchedule,
    FileCorpus,
    FolderCheckpoint,
    FreshStudent,
    PruneOptions,
    Schedule,
    TeacherConfig,
    WordPieceTokenizer,
)
from kdcore.data.batching import length_grouped_batches, lines, pack, pad_lines
from kdcore.data.corpora import open_corpus
from kdcore.data.masking import mask_smoothed, mask_uniform
from kdcore.data.token_cache import token_counts, tokenise
from kdcore.data.tokenizers import TokenizerInfo, load_tokenizer
from kdcore.events import ListSink
from kdcore.loss.objectives import DistillObjective, MlmObjective
from kdcore.model.bert import MaskedLM, build_teacher
from kdcore.model.prune import prune
from kdcore.rng import rng
from tests.fixtures.configs import tiny_model

TINY = tiny_model(hidden_size=16, max_positions=64, dropout=0.0)


@pytest.fixture(scope="module")
def text(corpus: FileCorpus, cache_dir):  # type: ignore[no-untyped-def]
    opened, sink = open_corpus(corpus), ListSink()
    tokens = load_tokenizer(WordPieceTokenizer(vocab_size=301), opened, cache_dir, sink, None)
    return tokens, tokenise(opened, tokens, "train", cache_dir, sink)


def teacher_of(tokens: TokenizerInfo) -> MaskedLM:
    model = build_teacher(TINY, tokens.vocab_size, tokens.pad_id, generator_seed=0)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model.train()


def test_mlm_terms_are_the_loss_of_the_whole_model(text) -> None:  # type: ignore[no-untyped-def]
    tokens, split = text
    config = TeacherConfig(model=TINY, seq_len=32, schedule=Schedule(batch_size=3))
    model = teacher_of(tokens)
    packed = pack(split, 32)
    objective = MlmObjective(config, model, tokens, packed)
    batch = objective.batch(epoch=0, index=0)
    losses = objective.losses(batch, batch, step=0)
    order = objectives_module.epoch_order(len(packed), config.seed, 0)[:3]
    ids, labels = mask_uniform(
        packed[order].astype(np.int64),
        special_ids=tokens.special_ids,
        mask_id=tokens.mask_id,
        vocab_size=tokens.vocab_size,
        rate=0.15,
        rng=rng(config.seed, "mask", 0, 0),
    )
    whole = model(input_ids=torch.from_numpy(ids), labels=torch.from_numpy(labels)).loss
    torch.testing.assert_close(losses.total, whole)
    torch.testing.assert_close(losses.terms["mlm"].float(), whole.detach())
    assert batch.num_tokens == 3 * 32


def reference_terms(config, student, teacher, tokens, text_lines, counts):  # type: ignore[no-untyped-def]
    """The distillation recipe as its authors wrote it: full logits, boolean selects."""
    rows = length_grouped_batches(text_lines.lengths, config.schedule.batch_size, config.seed, 0)[0]
    ids, attention = pad_lines([text_lines.get(int(row)) for row in rows], tokens.pad_id)
    ids, labels = mask_smoothed(
        ids,
        attention,
        counts=counts,
        smoothing=config.masking.smoothing,
        rate=config.masking.mask_rate,
        special_ids=tokens.special_ids,
        mask_id=tokens.mask_id,
        vocab_size=tokens.vocab_size,
        rng=rng(config.seed, "mask", 0, 0),
    )
    inputs = {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(attention),
        "output_hidden_states": True,
    }
    gold = torch.from_numpy(labels)
    ours = student(**inputs)
    with torch.no_grad():
        theirs = teacher(**inputs)
    selected = gold > -1 if config.loss.positions == "masked" else inputs["attention_mask"].bool()
    s, t = ours.logits[selected], theirs.logits[selected]
    temperature = config.loss.temperature
    s_hidden, t_hidden = ours.hidden_states[-1][selected], theirs.hidden_states[-1][selected]
    return {
        "ce": nn.KLDivLoss(reduction="batchmean")(
            (s / temperature).log_softmax(-1), (t / temperature).softmax(-1)
        )
        * temperature**2,
        "mlm": nn.CrossEntropyLoss(ignore_index=-100)(ours.logits.flatten(0, 1), gold.flatten()),
        "cos": nn.CosineEmbeddingLoss()(s_hidden, t_hidden, torch.ones(len(s_hidden))),
        "mse": nn.MSELoss(reduction="sum")(s, t) / len(s),
    }


@pytest.mark.parametrize("positions", ["all", "masked"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "weights",
    [
        (5.0, 2.0, 1.0, 0.0),
        (1.0, 1.0, 1.0, 1.0),
        (0.0, 1.0, 0.0, 0.0),
        (0.0, 0.0, 1.0, 0.0),
        (1.0, 0.0, 0.0, 0.5),
    ],
)
def test_distil_terms_and_gradients_are_the_recipes(  # type: ignore[no-untyped-def]
    text, weights, chunked, positions, monkeypatch
) -> None:
    tokens, split = text
    if chunked:
        monkeypatch.setattr("kdcore.loss.fused.LOGITS_AT_ONCE", 7 * tokens.vocab_size)
    ce, mlm, cos, mse = weights
    config = DistillConfig(
        teacher=FolderCheckpoint(path="unused"),
        student=FreshStudent(),
        loss=DistillLoss(
            alpha_ce=ce, alpha_mlm=mlm, alpha_cos=cos, alpha_mse=mse, positions=positions
        ),
        schedule=DistillSchedule(batch_size=4),
    )
    teacher = teacher_of(tokens).eval().requires_grad_(False)
    student, _ = prune(teacher, PruneOptions())
    student.train()
    text_lines = lines(split, tokens, DistillOptions().lines, 64)
    counts = token_counts(split, tokens.vocab_size)
    objective = DistillObjective(config, student, teacher, tokens, text_lines, counts)
    batch = objective.batch(epoch=0, index=0)
    # In parts of two lines or so, the sums over which must be those of the batch.
    parts = list(batch.microbatches(40)) if chunked else [batch]
    losses = [objective.losses(part, batch, step=0) for part in parts]
    expected = reference_terms(config, student, teacher, tokens, text_lines, counts)
    asked = dict(zip(("ce", "mlm", "cos", "mse"), weights, strict=True))
    asked = {name: weight for name, weight in asked.items() if weight}
    assert set(losses[0].terms) == set(asked)
    for name in asked:
        term = sum(part.terms[name] for part in losses)
        torch.testing.assert_close(term.float(), expected[name].detach(), rtol=2e-5, atol=1e-6)
    total = sum(part.total for part in losses)
    theirs = sum(weight * expected[name] for name, weight in asked.items())
    torch.testing.assert_close(total, theirs, rtol=2e-5, atol=1e-6)
    trained = list(student.parameters())
    total.backward()
    ours_grads = [parameter.grad for parameter in trained]
    their_grads = torch.autograd.grad(theirs, trained, allow_unused=True)
    for q, ours, reference in zip(trained, ours_grads, their_grads, strict=True):
        # A parameter that a term does not reach has no gradient, or a zero one.
        ours, reference = (0 * p if g is None else g for p, g in ((q, ours), (q, reference)))
        torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-5)
    assert len(parts) > 1 or not chunked


def test_without_soft_targets_no_teacher_runs(  # type: ignore[no-untyped-def]
    text, monkeypatch
) -> None:
    tokens, split = text
    config = DistillConfig(
        teacher=FolderCheckpoint(path="unused"),
        student=FreshStudent(),
        loss=DistillLoss(alpha_ce=0, alpha_mlm=1, alpha_cos=0, alpha_mse=0),
    )
    teacher = teacher_of(tokens).eval()
    student, _ = prune(teacher, PruneOptions())
    text_lines = lines(split, tokens, DistillOptions().lines, 64)
    counts = token_counts(split, tokens.vocab_size)
    objective = DistillObjective(config, student, teacher, tokens, text_lines, counts)
    run, last_hidden = [], objectives_module.last_hidden

    def noted(model: MaskedLM, *arguments: object, **options: object) -> torch.Tensor:
        run.append(model)
        return last_hidden(model, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(objectives_module, "last_hidden", noted)
    batch = objective.batch(epoch=0, index=0)
    objective.losses(batch, batch, step=0)
    assert run == [student]
