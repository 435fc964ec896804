"""What the figures over rounds and the comparisons show, read from matplotlib's own objects."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex

from hetfed_lightning import plots
from hetfed_lightning.metrics import mean_interval
from hetfed_lightning.plots.style import HARM


def drawn(figure: Any, axis: int = 0) -> dict[str, list[tuple[float, float]]]:
    lines = figure.axes[axis].get_lines()
    return {str(one.get_label()): list(map(tuple, one.get_xydata())) for one in lines}


def test_a_line_per_participant_and_one_per_reference() -> None:
    figure = plots.over_rounds(
        {"a": [(1, 0.5), (2, 0.75)], "b": [(2, 0.25)]}, metric="accuracy", references={"alone": [(1, 0.1), (2, 0.2)]}
    )
    assert drawn(figure) == {"a": [(1, 0.5), (2, 0.75)], "b": [(2, 0.25)], "alone": [(1, 0.1), (2, 0.2)]}
    assert figure.axes[0].get_ylabel() == "accuracy"


def test_of_many_the_mean_is_named() -> None:
    figure = plots.over_rounds({str(one): [(1, float(one))] for one in range(9)}, metric="accuracy")
    assert drawn(figure)["mean of 9"] == [(1, 4.0)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mean of 9"]


def test_the_mean_is_taken_over_who_has_a_value() -> None:
    assert plots.mean_over([[(1, 0.0), (2, 1.0)], [(2, 3.0)], [(3, float("nan"))]]) == [(1, 0.0), (2, 2.0)]


def test_bytes_are_in_the_unit_that_fits() -> None:
    figure = plots.bytes_per_round([(1, 2_000_000)], [(1, 500_000)])
    assert drawn(figure) == {"up": [(1, 2.0)], "down": [(1, 0.5)]}
    assert figure.axes[0].get_ylabel() == "MB"


def test_gains_have_intervals_and_harm_its_colour() -> None:
    figure = plots.gain({"a": mean_interval([0.1, 0.3]), "b": mean_interval([-0.5])}, metric="accuracy")
    _, bar, dot, single = figure.axes[0].get_lines()
    np.testing.assert_allclose(np.asarray(bar.get_xdata()), [-1.0706, 1.4706], atol=1e-4)
    np.testing.assert_allclose([np.asarray(dot.get_xdata()), np.asarray(single.get_xdata())], [[0.2], [-0.5]])
    assert to_hex(single.get_color()) == HARM.lower()
    assert [one.get_text() for one in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_own_goes_across_and_global_up() -> None:
    figure = plots.own_against_global({"federation": {"a": (0.9, 0.5)}}, metric="accuracy")
    assert np.asarray(figure.axes[0].collections[0].get_offsets()).tolist() == [[0.9, 0.5]]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("own accuracy", "global accuracy")


def test_true_goes_across_and_predicted_up() -> None:
    figure = plots.residuals({"a": ([1.0, 2.0], [3.0, 4.0])}, where="own validation set")
    assert np.asarray(figure.axes[0].collections[0].get_offsets()).tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.over_rounds({}, metric="m"), "over_rounds: expected the points of at least one"),
        (lambda: plots.gain({}, metric="m"), "gain: expected the gain of at least one"),
        (lambda: plots.residuals({}, where="w"), "residuals: expected the values of at least one"),
        (lambda: plots.own_against_global({"federation": {}}, metric="m"), "with both figures, got none"),
    ],
)
def test_a_figure_of_nobody_is_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hetfed-lightning\[plots\]'"):
        plots.over_rounds({"a": [(1, 1)]}, metric="m")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hetfed-lightning\[plots\]'"):
        plots.label_distribution({"a": [1]})
