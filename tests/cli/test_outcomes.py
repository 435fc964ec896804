import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest

from hetfed_lightning.cli.configs import ConfigError
from hetfed_lightning.cli.outcomes import (
    Arm,
    Outcome,
    by_seed,
    comparison_table,
    harmed_share,
    mean_of,
    of_metric,
    paired_gains,
    spread,
    summary,
    verdicts,
    worst_of,
    write_comparison,
)


def outcome(arm: Arm, seed: int, name: str, own: float, everyone: float = math.nan) -> Outcome:
    return Outcome(arm, seed, name, "accuracy", own, everyone)


# Own accuracy, by (seed 0, seed 1):
#              federation   local only    gain
#   a          0.8  0.6     0.5  0.5      +0.3  +0.1
#   b          0.4  0.6     0.6  0.6      -0.2   0.0
#   mean       0.6  0.6     0.55 0.55     +0.05 +0.05
#   worst      0.4  0.6     0.5  0.5      -0.1  +0.1
OUTCOMES = [
    outcome("federation", 0, "a", 0.8), outcome("federation", 0, "b", 0.4),
    outcome("local_only", 0, "a", 0.5), outcome("local_only", 0, "b", 0.6),
    outcome("federation", 1, "a", 0.6), outcome("federation", 1, "b", 0.6),
    outcome("local_only", 1, "a", 0.5), outcome("local_only", 1, "b", 0.6),
]  # fmt: skip


def test_the_table_by_hand() -> None:
    table = comparison_table(OUTCOMES)
    assert list(table.header) == ["participant", "own: federation", "own: local_only", "own: gain"]
    # Sample standard deviation of two values: their difference over the square root of 2.
    assert [list(row) for row in table.rows] == [
        ["a", "0.700 ± 0.141", "0.500 ± 0.000", "+0.200 ± 0.141"],
        ["b", "0.500 ± 0.141", "0.600 ± 0.000", "-0.100 ± 0.141"],
        ["mean", "0.600 ± 0.000", "0.550 ± 0.000", "+0.050 ± 0.000"],
        ["worst", "0.500 ± 0.141", "0.500 ± 0.000", "+0.000 ± 0.141"],
    ]


def test_the_worst_is_taken_in_each_seed_before_the_mean_over_seeds() -> None:
    # Worst of seed 0 is a (0.1), of seed 1 b (0.3): mean 0.2, though a's mean is 0.5 and b's 0.6.
    found = [
        outcome("federation", 0, "a", 0.1), outcome("federation", 0, "b", 0.9),
        outcome("federation", 1, "a", 0.9), outcome("federation", 1, "b", 0.3),
    ]  # fmt: skip
    assert by_seed(found, "federation", "own", ["a", "b"], worst_of) == {0: 0.1, 1: 0.3}
    assert comparison_table(found).rows[-1][1].startswith("0.200 ± ")


def test_harmed_share_by_hand() -> None:
    # Of (a, 0), (b, 0), (a, 1), (b, 1) only (b, 0) lost; an equal figure is no harm: 1 / 4.
    assert harmed_share(OUTCOMES, "own") == 0.25


def test_harm_needs_both_figures() -> None:
    assert math.isnan(harmed_share(OUTCOMES, "everyone"))
    assert math.isnan(harmed_share([one for one in OUTCOMES if one.arm == "federation"], "own"))
    lonely = [*OUTCOMES, outcome("federation", 2, "a", 0.0), outcome("local_only", 1, "c", 1.0)]
    assert harmed_share(lonely, "own") == 0.25


def test_verdicts_pair_the_seeds() -> None:
    (verdict,) = verdicts(OUTCOMES)
    assert verdict.startswith("own accuracy: federation - local_only = +0.050 ± 0.000 (mean over participants, 2 seed")
    assert verdict.endswith("; 25% of participants harmed")
    # A third seed that has no counterpart counts for nothing.
    assert verdicts([*OUTCOMES, outcome("federation", 2, "a", 1.0)]) == verdicts(OUTCOMES)


def test_both_scopes_stand_side_by_side() -> None:
    found = [outcome("federation", 0, "a", 0.5, 0.25), outcome("centralised", 0, "a", 0.75, 1.0)]
    table = comparison_table(found)
    assert list(table.header) == [
        "participant", "own: federation", "own: centralised", "global: federation", "global: centralised",
    ]  # fmt: skip
    # One participant: neither mean nor worst. One seed: no deviation. No local only: no gain.
    assert [list(row) for row in table.rows] == [["a", "0.500", "0.750", "0.250", "1.000"]]
    assert verdicts(found) == []


def test_a_participant_without_a_figure_has_a_dash() -> None:
    table = comparison_table([outcome("federation", 0, "a", math.nan), outcome("federation", 0, "b", 0.5)])
    assert [list(row) for row in table.rows] == [["a", "-"], ["b", "0.500"], ["mean", "0.500"], ["worst", "0.500"]]


def test_small_figures() -> None:
    assert [spread([]), spread([0.5]), spread([0.5], signed=True), spread([1.0, 2.0])] == [
        "-", "0.500", "+0.500", "1.500 ± 0.707",
    ]  # fmt: skip
    assert mean_of([1.0, math.nan, 2.0]) == 1.5
    assert math.isnan(mean_of([]))


def test_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write_comparison(OUTCOMES, folder)
    with (folder / "outcomes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(OUTCOMES)
    assert list(rows[0].items())[:5] == [
        ("arm", "federation"), ("seed", "0"), ("participant", "a"), ("metric", "accuracy"), ("own", "0.8"),
    ]  # fmt: skip
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert text.startswith(comparison_table(OUTCOMES).markdown())
    assert text.rstrip().endswith(verdicts(OUTCOMES)[0])


def test_different_headline_metrics_are_not_called_by_one_name() -> None:
    mixed = [
        Outcome("federation", 0, "a", "accuracy", 0.5, math.nan),
        Outcome("local_only", 0, "a", "accuracy", 0.25, math.nan),
        Outcome("federation", 0, "b", "f1", 0.5, math.nan),
        Outcome("local_only", 0, "b", "f1", 0.25, math.nan),
    ]
    assert verdicts(mixed)[0].startswith("own accuracy, f1: ")


def test_less_is_better_for_errors() -> None:
    # Errors: a fell from 2 to 1 (a gain of 1), b rose from 1 to 4 (a loss of 3): harmed 1 of 2, worst is the largest.
    found = [
        Outcome("federation", 0, "a", "mae", 1.0, math.nan, higher_is_better=False),
        Outcome("federation", 0, "b", "mae", 4.0, math.nan, higher_is_better=False),
        Outcome("local_only", 0, "a", "mae", 2.0, math.nan, higher_is_better=False),
        Outcome("local_only", 0, "b", "mae", 1.0, math.nan, higher_is_better=False),
    ]
    assert harmed_share(found, "own") == 0.5
    assert [list(row) for row in comparison_table(found).rows] == [
        ["a", "1.000", "2.000", "+1.000"],
        ["b", "4.000", "1.000", "-3.000"],
        ["mean", "2.500", "1.500", "-1.000"],
        ["worst", "4.000", "2.000", "-2.000"],
    ]


def test_a_student_counts_in_no_mean() -> None:
    student = [outcome("federation", seed, "student", math.nan, 0.9) for seed in (0, 1)]
    table, alone = comparison_table([*OUTCOMES, *student]), comparison_table(OUTCOMES)
    assert [list(row[:4]) for row in table.rows[:-1]] == [list(row) for row in alone.rows]
    assert table.rows[-1][0] == "student"
    assert table.rows[-1][-3:] == ["0.900 ± 0.000", "-", "-"]
    assert verdicts([*OUTCOMES, *student])[0] == verdicts(OUTCOMES)[0]


# A second metric, an error, that says the opposite of the first of a and the same of b: own, both seeds.
#              federation   local only    gain (less is better)
#   a          0.4          0.3           -0.1
#   b          0.2          0.5           +0.3
BRIER = [
    replace(one, metric="brier", higher_is_better=False, headline=False)
    for seed in (0, 1)
    for one in (
        outcome("federation", seed, "a", 0.4), outcome("federation", seed, "b", 0.2),
        outcome("local_only", seed, "a", 0.3), outcome("local_only", seed, "b", 0.5),
    )
]  # fmt: skip


def test_other_metrics_stay_out_of_the_headline_s_table() -> None:
    assert of_metric([*OUTCOMES, *BRIER], None) == OUTCOMES
    assert summary([*OUTCOMES, *BRIER]) == summary(OUTCOMES)


def test_a_table_for_each_metric_that_is_asked_for() -> None:
    both = [*OUTCOMES, *BRIER]
    text = summary(both, ["brier", "accuracy"])
    brier, accuracy = comparison_table(BRIER).markdown(), comparison_table(OUTCOMES).markdown()
    assert text.split("\n\n") == ["brier", brier, verdicts(BRIER)[0], "accuracy", accuracy, verdicts(OUTCOMES)[0]]
    assert "| a | 0.400 ± 0.000 | 0.300 ± 0.000 | -0.100 ± 0.000 |" in brier


def test_a_metric_that_nobody_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--metrics: nobody was tested by 'breir'; did you mean 'brier'\?"):
        summary([*OUTCOMES, *BRIER], ["breir"])


def test_the_interval_of_the_gain_by_hand() -> None:
    # Gains of the mean: seed 0 +0.1, seed 1 +0.3. Mean 0.2, deviation 0.2 / sqrt(2), error 0.1, t(1) = 12.706.
    found = [
        outcome("federation", 0, "a", 0.6), outcome("local_only", 0, "a", 0.5),
        outcome("federation", 1, "a", 0.8), outcome("local_only", 1, "a", 0.5),
    ]  # fmt: skip
    assert paired_gains(found, "own", ["a"]) == pytest.approx([0.1, 0.3])
    assert "+0.200 ± 0.141 (mean over participants, 2 seed(s), 95 % interval -1.071 to +1.471)" in verdicts(found)[0]
    # One seed knows nothing of its spread.
    assert "(mean over participants, 1 seed(s));" in verdicts(found[:2])[0]


def test_gains_in_errors_are_positive_where_the_error_fell() -> None:
    (line,) = verdicts(BRIER)
    assert line.startswith("own brier: local_only - federation = +0.100 ± 0.000 (")
    assert line.endswith("; 50% of participants harmed")


def test_a_figure_without_end_has_no_spread_and_ends_no_comparison() -> None:
    found = [outcome("federation", seed, "a", value) for seed, value in enumerate((math.inf, 1.0))]
    found += [outcome("local_only", seed, "a", value) for seed, value in enumerate((1.0, 2.0))]
    assert "inf ± nan" in comparison_table(found).text()
    assert "95 % interval -inf to +inf" in " ".join(verdicts(found))
