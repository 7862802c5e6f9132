"""Rules between fields hold whether the fields are given or left out."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from kdcore.config import DistillLines, DistillLoss, FreshStudent, ScratchModel, TeacherConfig
from kdcore.shapes import ModelShape, fresh_student_shape

HUB = {"source": "hub", "name": "bert-base-uncased"}
OWN = {"source": "model"}
WORDPIECE = {"source": "wordpiece"}
SHORT = {"source": "scratch", "max_positions": 256}
NONE_COUNTS = {"alpha_ce": 0, "alpha_mlm": 0, "alpha_cos": 0}


@pytest.mark.parametrize(
    ("model", "given", "field"),
    [
        (ScratchModel, {"hidden_size": 30}, ("heads",)),
        (ScratchModel, {"heads": 7}, ("heads",)),
        (ScratchModel, {"hidden_size": 30, "heads": 4}, ("heads",)),
        (TeacherConfig, {"model": HUB}, ("tokenizer",)),
        (TeacherConfig, {"model": HUB, "tokenizer": WORDPIECE}, ("tokenizer",)),
        (TeacherConfig, {"tokenizer": OWN}, ("tokenizer",)),
        (TeacherConfig, {"model": {"source": "scratch"}, "tokenizer": OWN}, ("tokenizer",)),
        (TeacherConfig, {"model": SHORT}, ("seq_len",)),
        (TeacherConfig, {"seq_len": 513}, ("seq_len",)),
        (TeacherConfig, {"model": SHORT, "seq_len": 257}, ("seq_len",)),
        (TeacherConfig, {"evaluation": {"seq_len": 513}}, ("evaluation", "seq_len")),
        (
            TeacherConfig,
            {"model": SHORT, "seq_len": 256, "evaluation": {"seq_len": 257}},
            ("evaluation", "seq_len"),
        ),
        (DistillLoss, NONE_COUNTS, ("alpha_mse",)),
        (DistillLoss, {**NONE_COUNTS, "alpha_mse": 0}, ("alpha_mse",)),
        (DistillLines, {"max_tokens": 11}, ("max_tokens",)),
        (DistillLines, {"min_tokens": 30, "max_tokens": 29}, ("max_tokens",)),
    ],
)
def test_a_rule_between_fields_is_checked_and_names_its_field(
    model: type[BaseModel], given: dict[str, Any], field: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(given)
    assert [error["loc"] for error in caught.value.errors()] == [field]


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (ScratchModel, {}),
        (ScratchModel, {"hidden_size": 30, "heads": 5}),
        (TeacherConfig, {}),
        (TeacherConfig, {"model": HUB, "tokenizer": OWN}),
        (TeacherConfig, {"model": SHORT, "seq_len": 256, "evaluation": {"seq_len": 256}}),
        (TeacherConfig, {"model": HUB, "tokenizer": OWN, "seq_len": 600}),
        (DistillLoss, {**NONE_COUNTS, "alpha_mse": 1}),
        (DistillLoss, {"alpha_ce": 0}),
        (DistillLines, {"min_tokens": 600}),
        (DistillLines, {"min_tokens": 12, "max_tokens": 12}),
    ],
)
def test_what_keeps_the_rules_is_accepted(model: type[BaseModel], given: dict[str, Any]) -> None:
    model.model_validate(given)


def test_no_validator_of_a_field_looks_at_other_fields() -> None:
    """pydantic skips it where its field is left out: such rules belong into model validators."""
    pending: list[type[BaseModel]] = [BaseModel]
    looking = []
    while pending:
        model = pending.pop()
        pending += [each for each in model.__subclasses__() if each not in pending]
        if not model.__module__.startswith(("kdcore.", "app.", "worker.")):
            continue
        for name, each in model.__pydantic_decorators__.field_validators.items():
            if "info" in each.func.__code__.co_varnames:
                looking.append(f"{model.__name__}.{name}")
    assert looking == []


def test_a_student_much_narrower_than_its_teacher_keeps_a_feed_forward_layer() -> None:
    teacher = ModelShape("bert", 2, 256, 4, 8, 64)
    assert fresh_student_shape(FreshStudent(hidden_size=8), teacher).intermediate_size == 1
