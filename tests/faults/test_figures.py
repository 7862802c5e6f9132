"""What several seeds have shown, in one table."""

from pathlib import Path

from faults.figures import Figure, Outcome, Row, merged, table


def row(times: int, lost: int, p99_s: float, median_s: float) -> Row:
    figures = [Figure("lost_runs", lost), Figure("resumed_p99_s", p99_s, 90)]
    return Row("SIGKILL", times, "it goes on", figures, {"median_s": median_s, "kind": "x"})


def test_seeds_are_added_up_and_the_worst_time_counts() -> None:
    [both] = merged([row(3, 0, 80, 2.5), row(4, 1, 70, 1.5)])
    assert both.times == 7
    assert both.facts == {"median_s": "1.5 to 2.5", "kind": "x"}
    lost, resumed = both.figures
    assert (lost.value, lost.met) == (1, False)
    assert (resumed.value, resumed.at_most, resumed.met) == (80, 90, True)


def test_an_outcome_is_read_as_it_was_saved(tmp_path: Path) -> None:
    outcome = Outcome("kills", 1, "long", [row(3, 0, 80.5, 2.5)], "", 12.5)
    outcome.save(tmp_path / "kills.json")
    assert Outcome.load(tmp_path / "kills.json") == outcome
    assert outcome.met
    assert not Outcome("kills", 1, "long", [], "TimeoutError", 1.0).met


def test_the_table_says_first_what_there_was_none_of() -> None:
    met, missed = table([row(1200, 0, 39.34, 2.5), row(3, 2, 91.2, 2.5)]).splitlines()[2:]
    assert met == (
        "| SIGKILL | 1,200 | it goes on | lost runs: 0; resumed p99 39 s (at most 90); "
        "median 2.5 s; kind x |"
    )
    assert "| lost runs 2 **not met**; resumed p99 91 s (at most 90) **not met**;" in missed
