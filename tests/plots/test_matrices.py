"""What the figures show, read from matplotlib's own objects."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from hetfed_lightning.plots import matrices as figures


def drawn(figure: Any) -> Any:
    """The renderer that has drawn the figure, which places its texts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def cells(figure: Any) -> dict[tuple[int, int], str]:
    """The text of every cell by (row, column)."""
    found = {}
    for text in figure.axes[0].texts:
        column, row = text.get_position()
        found[int(row), int(column)] = text.get_text()
    return found


def colours(figure: Any) -> Any:
    """The numbers that the colours stand for, masked where a cell is empty."""
    return figure.axes[0].images[0].get_array()


def labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def inches(figure: Any) -> tuple[float, float]:
    width, height = figure.get_size_inches()
    return float(width), float(height)


def test_the_label_distribution_has_a_row_per_participant_and_its_counts() -> None:
    figure = figures.label_distribution({"a": [3, 0, 7], "b": [0, 1, 2]})
    np.testing.assert_array_equal(colours(figure), [[3, 0, 7], [0, 1, 2]])
    assert figure.axes[0].images[0].norm.vmin == 0
    assert labels(figure.axes[0].yaxis) == ["a", "b"]
    # Nothing stands in an empty class.
    assert cells(figure) == {(0, 0): "3", (0, 1): "", (0, 2): "7", (1, 0): "", (1, 1): "1", (1, 2): "2"}


def test_classes_that_a_participant_does_not_know_stay_white() -> None:
    figure = figures.label_distribution({"two_classes": [3, 4], "three_classes": [1, 2, 3]})
    assert np.isnan(colours(figure).filled(np.nan)[0, 2])
    assert (0, 2) not in cells(figure)
    assert cells(figure)[1, 2] == "3"


def test_a_hundred_participants_stay_within_a_page_and_some_are_named() -> None:
    figure = figures.label_distribution({f"site_{index:03d}": [index] * 62 for index in range(100)})
    assert max(inches(figure)) < 10
    named = labels(figure.axes[0].yaxis)
    assert named[0] == "site_000"
    assert 20 < len(named) <= figures.NAMED
    # Every name stands at its own row, not at the rows one after the other.
    assert [f"site_{int(row):03d}" for row in figure.axes[0].get_yticks()] == named
    assert not cells(figure)
    assert figure.axes[1].get_ylabel() == "examples"  # the scale says what the cells cannot


def test_a_label_distribution_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one participant"):
        figures.label_distribution({})


def test_a_confusion_matrix_shows_counts_and_is_coloured_by_true_class() -> None:
    # Row 0: 8 examples, 6 right. Row 1: 2 examples, 1 right. Row 2: none. 7 of 10 are right.
    figure = figures.confusion_matrix([[6, 2, 0], [1, 1, 0], [0, 0, 0]], name="hospital_a", where="own validation set")
    np.testing.assert_allclose(colours(figure), np.array([[0.75, 0.25, 0], [0.5, 0.5, 0], [0, 0, 0]]))
    assert cells(figure)[0, 0] == "6"
    assert cells(figure)[0, 1] == "2"
    assert figure.axes[0].get_title() == "hospital_a\nown validation set\n10 examples, 70.0% right"
    assert figure.axes[0].get_ylabel() == "true class"
    assert figure.axes[0].get_xlabel() == "predicted class"


def test_a_confusion_matrix_of_no_examples_claims_no_accuracy() -> None:
    figure = figures.confusion_matrix(np.zeros((2, 2)), name="a", where="own validation set")
    assert figure.axes[0].get_title() == "a\nown validation set\n0 examples"


def test_many_classes_are_coloured_without_numbers() -> None:
    figure = figures.confusion_matrix(np.eye(30), name="a", where="own validation set")
    assert not cells(figure)
    assert figure.axes[1].get_ylabel() == "share of the true class"


def test_teacher_agreement_names_both_axes() -> None:
    figure = figures.teacher_agreement(["a", "b"], [[1.0, 0.25], [0.25, 1.0]])
    assert labels(figure.axes[0].xaxis) == labels(figure.axes[0].yaxis) == ["a", "b"]
    assert cells(figure)[0, 1] == "0.25"
    assert (figure.axes[0].images[0].norm.vmin, figure.axes[0].images[0].norm.vmax) == (0, 1)


def test_a_correlation_below_zero_widens_the_scale() -> None:
    figure = figures.teacher_agreement(["a", "b"], [[1.0, -0.5], [-0.5, 1.0]])
    assert figure.axes[0].images[0].norm.vmin == -1


@pytest.mark.parametrize("names", [["a", "b", "c", "d"], ["hospital_a", "hospital_b", "hospital_c", "hospital_d"]])
def test_names_below_a_matrix_do_not_touch(names: list[str]) -> None:
    figure = figures.teacher_agreement(names, np.eye(4))
    drawn(figure)
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize("longest", ["a", "a_hospital_with_a_name_of_forty_letters_"])
def test_nothing_is_cut_off(longest: str) -> None:
    for figure in (
        figures.label_distribution({longest: [1, 2], "b": [3, 4]}),
        figures.confusion_matrix([[3, 0], [1, 12345]], name=longest, where="everyone's validation set"),
        figures.teacher_agreement([longest, "b"], np.eye(2)),
    ):
        box = figure.axes[0].get_tightbbox(drawn(figure))
        assert box is not None
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height


def test_an_agreement_without_a_name_per_row_is_refused() -> None:
    with pytest.raises(ValueError, match="2 names, one per row, got 1"):
        figures.teacher_agreement(["a"], np.eye(2))


def test_a_matrix_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match=r"square matrix, got shape \(2, 3\)"):
        figures.confusion_matrix(np.zeros((2, 3)), name="a", where="own validation set")


def test_figures_leave_pyplot_alone() -> None:
    from matplotlib import pyplot as plt

    before = plt.get_fignums()
    figures.label_distribution({"a": [1, 2]})
    assert plt.get_fignums() == before
