import math

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from hetfed_lightning.layers import Fittable, Standardise, TransformByName

VALUES = torch.tensor([[1.0, 5.0, math.nan], [3.0, 5.0, 2.0], [math.nan, 5.0, 4.0]])


def test_it_scales_as_scikit_learn_does_missing_values_left_out() -> None:
    values = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * 7 + 100
    values[::3, 1] = math.nan
    scale = Standardise(4)
    scale.fit(values)
    wanted = StandardScaler().fit(values.double().numpy())
    np.testing.assert_allclose(scale.mean.numpy(), wanted.mean_, rtol=1e-6)
    np.testing.assert_allclose(scale.std.numpy(), wanted.scale_, rtol=1e-6)
    torch.testing.assert_close(scale.inverse(scale(values)), values, equal_nan=True)


def test_by_hand() -> None:
    # Columns (1, 3), a constant, (2, 4): means 2, 5, 3, deviations 1, none (left at 1), 1.
    scale = Standardise(3, fill_missing=True)
    scale.fit(VALUES)
    assert scale(VALUES).tolist() == [[-1.0, 0.0, 0.0], [1.0, 0.0, -1.0], [0.0, 0.0, 1.0]]


def test_a_column_without_any_value_is_left_at_its_size() -> None:
    scale = Standardise(2, fill_missing=True)
    scale.fit(torch.tensor([[math.nan, 1.0], [math.nan, 2.0]]))
    assert scale(torch.tensor([[7.0, 1.5]])).tolist() == [[7.0, 0.0]]


def test_until_it_is_fitted_it_changes_nothing_and_what_it_learned_is_saved() -> None:
    scale = Standardise()
    assert isinstance(scale, Fittable)
    assert not scale.is_fitted
    assert scale(torch.tensor([3.0])).tolist() == [3.0]
    scale.fit(torch.tensor([1, 3]))
    assert scale(torch.tensor([4])).tolist() == [2.0]
    other = Standardise()
    other.load_state_dict(scale.state_dict())
    assert other.is_fitted
    assert other(torch.tensor([4.0])).tolist() == [2.0]


def test_other_columns_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected values of shape \(N, 2\), got \(3, 3\)"):
        Standardise(2).fit(VALUES)
    with pytest.raises(ValueError, match="columns: expected at least 1, got 0"):
        Standardise(0)


def test_inputs_by_name_have_a_transform_each() -> None:
    by_name = TransformByName({"genes": Standardise(1), "image": torch.nn.Flatten()})
    inputs = {"genes": torch.tensor([[1.0], [3.0]]), "image": torch.zeros(2, 2, 2), "age": torch.tensor([50, 60])}
    assert not by_name.is_fitted
    by_name.fit(inputs)
    assert by_name.is_fitted
    found = by_name(inputs)
    assert found["genes"].tolist() == [[-1.0], [1.0]]
    assert found["image"].shape == (2, 4)
    assert found["age"] is inputs["age"]
    assert list(by_name({"image": inputs["image"]})) == ["image"]
    with pytest.raises(TypeError, match="transforms are for genes, image; got Tensor"):
        by_name(torch.zeros(2))
