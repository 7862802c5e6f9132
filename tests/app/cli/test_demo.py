"""The demo's table and its claims, on figures of runs that did and did not bear them out."""

from typing import Any

from rich.console import Console

from app.cli.demo import Pipeline, broken_claims, results_table


def pipeline(
    teacher_eval: float | None = 6.0, student_eval: float | None = 6.3, layer_drop: float = 0.1
) -> Pipeline:
    teacher: dict[str, Any] = {
        "layers": 4,
        "layer_drop": layer_drop,
        "train_loss": 6.21234,
        "eval_loss": teacher_eval,
        "unigram_entropy": 6.6,
    }
    student: dict[str, Any] = {
        "layers": 2,
        "layer_drop": layer_drop,
        "last_loss": 17.71234,
        "mean_loss": 18.01234,
        "eval_loss": student_eval,
        "start_eval_loss": 6.5,
        "unigram_entropy": 6.6,
    }
    return Pipeline(layer_drop, {"result": teacher}, {}, {"result": student})


def test_claims_that_hold() -> None:
    assert broken_claims([pipeline(), pipeline(layer_drop=0.0)]) == []


def test_a_teacher_on_the_unigram_plateau_is_named() -> None:
    (broken,) = broken_claims([pipeline(), pipeline(teacher_eval=6.55, layer_drop=0.0)])
    assert "teacher with LayerDrop 0.0" in broken
    assert "6.5500" in broken


def test_a_student_that_lost_what_it_started_with_is_named() -> None:
    (broken,) = broken_claims([pipeline(student_eval=6.51)])
    assert "student" in broken
    assert "6.5000" in broken


def test_a_loss_that_is_not_finite_breaks_the_claim() -> None:
    assert len(broken_claims([pipeline(teacher_eval=None, student_eval=None)])) == 2


def test_the_table_fits_eighty_columns_with_all_figures() -> None:
    console = Console(width=80, record=True, force_terminal=False)
    console.print(results_table([pipeline(layer_drop=0.0), pipeline()]))
    text = console.export_text()
    words = "Role Layers LayerDrop rate Train loss Last Mean Eval before distillation"
    for word in (
        *words.split(),
        "Unigram",
        "entropy",
        "6.2123",
        "17.7123",
        "18.0123",
        "0.1",
        "Student",
    ):
        assert word in text, word
    assert "…" not in text
