"""The figures of results: each is defined once and written the same way everywhere."""

import subprocess
import sys
from typing import Any

import pytest

from kdcore.figures import (
    CURVES,
    KEY_RESULTS,
    RESULTS,
    Figure,
    curve_label,
    result_figure,
    result_rows,
)


@pytest.mark.parametrize("table", [RESULTS, CURVES], ids=["results", "curves"])
def test_names_and_labels_are_unique_and_every_figure_is_described(
    table: tuple[Figure, ...],
) -> None:
    for words in ([each.name for each in table], [each.label for each in table]):
        assert len(set(words)) == len(words)
    assert all(each.description.endswith(".") for each in table)


def test_a_figure_that_is_both_a_result_and_a_curve_has_one_label() -> None:
    for each in CURVES:
        if each.name in {result.name for result in RESULTS}:
            assert result_figure(each.name).label == each.label


def test_key_results_are_results() -> None:
    assert set(KEY_RESULTS) <= {each.name for each in RESULTS}


# frontend/src/features/runs/figures.test.ts expects the same words of the page.
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("eval_loss", 6.26431, "6.2643 nats"),
        ("eval_loss", 0.0000123, "1.23e-05 nats"),
        ("eval_loss", None, "-"),
        ("eval_perplexity", 525.4871, "525.49"),
        ("layers", 4, "4"),
        ("layer_drop", 0.1, "0.1"),
        ("layer_drop", 0.0, "0"),
        ("parameters", 66_362_880, "66.4M"),
        ("tokens", 812, "812"),
        ("tokens", 999, "999"),
        ("tokens", 1000, "1.0k"),
        ("tokens", 999_949, "999.9k"),
        ("tokens", 999_950, "1.0M"),
        ("tokens", -999_950, "-1.0M"),
        ("tokens", 999_950_000, "1.0G"),
        ("tokens", 999.94, "999.9"),
        ("tokens", 999.96, "1.0k"),
        ("tokens_per_s", 1234.5, "1.2k tokens/s"),
        ("elapsed_s", 0.4, "< 1 s"),
        ("elapsed_s", 185.2, "3 min 05 s"),
        ("elapsed_s", 7_800, "2 h 10 min"),
        ("elapsed_s", 273_600, "3 d 4 h"),
        ("documents", 12_034, "12,034"),
        ("unknown_token_share", 0.2, "20.00 %"),
        ("unknown_token_share", 0.00001, "< 0.01 %"),
        ("unknown_token_share", 0, "0 %"),
        ("copy_head_transform", False, "no"),
        ("kept_layers", [0, 2], "0, 2"),
        ("tokenizer_notes", ["one", "two"], "one; two"),
        ("precision", "bf16", "bf16"),
        ("of_a_newer_release", 1.5, "1.5000"),
    ],
)
def test_how_figures_are_written(name: str, value: Any, text: str) -> None:
    assert result_figure(name).text(value) == text


def test_rows_are_in_order_and_unknown_figures_come_last_by_their_key() -> None:
    result = {"glue": 0.5, "steps": 7, "eval_loss": 6.0, "report": {"fresh": []}}
    assert result_rows(result) == [
        ("Eval loss", "6.0000 nats"),
        ("Steps", "7"),
        ("glue", "0.5000"),
    ]
    assert curve_label("eval/loss") == "Eval loss"
    assert curve_label("odd/name") == "odd/name"


@pytest.mark.integration
def test_figures_load_without_torch() -> None:
    script = "import sys, kdcore.figures; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
