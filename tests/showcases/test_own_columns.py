"""A participant's own view of a table, by hand."""

import math

import pytest
import torch

from hetfed_lightning.showcases import OwnColumns

NAN = math.nan
COLUMNS = ("age", "rate", "sugar")


def test_medians_fill_gaps_and_scales_are_the_own_ones() -> None:
    own = OwnColumns(COLUMNS, ["age"], ["sugar"], ["sugar"], {"age": (50.0, 10.0)}, common_scale=0.5, private_scale=2.0)
    # Ages 40, 50, 90 with the median 50 in the gap: mean 57.5, deviation sqrt((17.5^2 + 2 * 7.5^2 + 32.5^2) / 4).
    train = torch.tensor([[40.0, NAN, 1.0], [50.0, NAN, 3.0], [NAN, NAN, NAN], [90.0, NAN, NAN]])
    own.fit(train)
    deviation = math.sqrt((17.5**2 + 2 * 7.5**2 + 32.5**2) / 4)
    # Sugar 1, 3 and twice the median 2: mean 2, deviation sqrt(1 / 2); absent in half of the rows.
    found = own(torch.tensor([[NAN, 7.0, 3.0], [60.0, 7.0, NAN]]))
    torch.testing.assert_close(found["common"], torch.tensor([[0.0], [1.0]]))
    expected = [
        [0.5 * (50 - 57.5) / deviation, 2 * 1 / math.sqrt(0.5), 2 * -0.5],
        [0.5 * (60 - 57.5) / deviation, 0.0, 2 * 0.5],
    ]
    torch.testing.assert_close(found["private"], torch.tensor(expected))


def test_a_column_that_never_changes_is_only_centred() -> None:
    own = OwnColumns(COLUMNS, ["age"])
    own.fit(torch.tensor([[5.0, 0.0, 0.0], [5.0, 0.0, 0.0]]))
    assert own(torch.tensor([[7.0, 0.0, 0.0]]))["private"].tolist() == [[2.0]]


def test_what_was_measured_comes_with_the_state() -> None:
    own, other = OwnColumns(COLUMNS, ["age", "rate"]), OwnColumns(COLUMNS, ["age", "rate"])
    assert not own.is_fitted
    rows = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    own.fit(rows)
    other.load_state_dict(own.state_dict())
    assert other.is_fitted
    assert torch.equal(own(rows)["private"], other(rows)["private"])


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="no column 'weight'; there are age, rate, sugar"):
        OwnColumns(COLUMNS, ["weight"])
    with pytest.raises(ValueError, match="column 'age' is named twice"):
        OwnColumns(COLUMNS, ["age"], ["age"])
    with pytest.raises(ValueError, match="private_scale: expected a finite factor of at least 0, got -1"):
        OwnColumns(COLUMNS, ["age"], private_scale=-1)
    with pytest.raises(ValueError, match="units: expected a unit above 0 for 'age', got 0"):
        OwnColumns(COLUMNS, ["age"], units={"age": (1.0, 0.0)})
    with pytest.raises(ValueError, match=r"expected rows of 3 columns, got values of shape \(4, 2\)"):
        OwnColumns(COLUMNS, ["age"])(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="no training row has a value of 'age'"):
        OwnColumns(COLUMNS, ["age"]).fit(torch.full((2, 3), NAN))
