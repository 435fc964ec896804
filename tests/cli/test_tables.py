import math

from hetfed_lightning.cli.tables import Table, figure, participants_table

TABLE = Table(["participant", "own", "global"], [["a", "0.5", "0.125"], ["hospital_of_b", "10.25", "-"]])


def test_text_by_hand() -> None:
    # First column flush left, the others flush right, each as wide as its widest cell, two spaces between.
    assert TABLE.text().splitlines() == [
        "participant      own  global",
        "-------------  -----  ------",
        "a                0.5   0.125",
        "hospital_of_b  10.25       -",
    ]


def test_markdown_by_hand() -> None:
    assert TABLE.markdown().splitlines() == [
        "| participant | own | global |",
        "| --- | ---: | ---: |",
        "| a | 0.5 | 0.125 |",
        "| hospital_of_b | 10.25 | - |",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert Table(["a", "b"], []).text() == "a  b\n-  -"


def test_figures() -> None:
    assert [figure(0.12345), figure(2), figure(math.nan), figure(0.5, digits=1)] == ["0.123", "2.000", "-", "0.5"]


METRICS = {
    "val_loss/a": 2.0, "val_loss/b": 1.0,
    "val_global_accuracy/a": 0.25, "val_global_accuracy/b": 0.5,
    "val_accuracy/a": 0.5, "val_accuracy/b": 1.0,
    "test_accuracy/a": 0.9, "train_loss/a": 9.0, "federation/val_mean": 0.75,
}  # fmt: skip


def test_participants_own_before_global_losses_last_and_their_mean() -> None:
    table = participants_table(METRICS, ["a", "b"], "val")
    assert list(table.header) == ["participant", "own accuracy", "global accuracy", "own loss"]
    # Means: (0.5 + 1) / 2, (0.25 + 0.5) / 2, (2 + 1) / 2.
    assert [list(row) for row in table.rows] == [
        ["a", "0.500", "0.250", "2.000"],
        ["b", "1.000", "0.500", "1.000"],
        ["mean", "0.750", "0.375", "1.500"],
    ]


def test_one_participant_has_no_mean_and_one_without_figures_no_row() -> None:
    table = participants_table(METRICS, ["a", "b"], "test")
    assert [list(row) for row in table.rows] == [["a", "0.900"]]


def test_the_student_has_a_row_and_no_part_in_the_mean() -> None:
    table = participants_table(METRICS | {"val_accuracy/student": 0.0}, ["a", "b", "student"], "val")
    assert [list(row[:2]) for row in table.rows][2:] == [["student", "0.000"], ["mean", "0.750"]]


def test_a_figure_that_only_some_have_is_averaged_over_them() -> None:
    # Own accuracy of a alone: mean 0.5; b has a global accuracy only.
    metrics = {"val_accuracy/a": 0.5, "val_global_accuracy/b": 0.25}
    table = participants_table(metrics, ["a", "b"], "val")
    assert [list(row) for row in table.rows] == [["a", "0.500", "-"], ["b", "-", "0.250"], ["mean", "0.500", "0.250"]]


def test_what_is_undefined_is_a_dash_and_in_no_mean() -> None:
    metrics = {"val_auroc/a": 0.8, "val_auroc/b": math.nan, "val_accuracy/a": 0.5, "val_accuracy/b": 0.7}
    table = participants_table(metrics, ["a", "b"], "val")
    assert [list(row) for row in table.rows] == [
        ["a", "0.800", "0.500"],
        ["b", "-", "0.700"],
        ["mean", "0.800", "0.600"],
    ]
