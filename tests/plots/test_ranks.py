"""The figure of ranks has the best method on top, at its rank."""

import pytest

from hetfed_lightning.plots import mean_ranks


def test_methods_stand_in_order_of_their_ranks() -> None:
    [axes] = mean_ranks({"b": 2.5, "a": 1.0, "c": 2.5}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines]  # type: ignore[index]
    assert points == [(1.0, 0), (2.5, 1), (2.5, 2)]
    with pytest.raises(ValueError, match="at least one method"):
        mean_ranks({})
