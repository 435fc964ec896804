import math

import pytest
import torch

from hetfed_lightning.finite import LARGEST, is_finite, largest_number, names_beyond, why_not_heard, why_unusable


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_element_is_seen(value: float) -> None:
    tensors = [torch.zeros(3), torch.ones(2, 2)]
    assert is_finite(tensors)
    tensors[1][1, 0] = value
    assert not is_finite(tensors)


def test_what_cannot_be_bad_is_passed_over() -> None:
    assert is_finite([])
    assert is_finite([torch.tensor([2**62]), torch.tensor([True]), torch.empty(0)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_number_is_finite(dtype: torch.dtype) -> None:
    # A sum or a square of it would overflow.
    assert is_finite([torch.full((4,), torch.finfo(dtype).max, dtype=dtype)])


def test_the_largest_number_by_hand() -> None:
    assert largest_number([]) == 0
    assert largest_number([torch.tensor([2**62]), torch.empty(0)]) == 0
    assert largest_number([torch.tensor([1.0, -3.0]), torch.tensor([2.0], dtype=torch.bfloat16)]) == 3
    assert largest_number([torch.tensor([1 - 4j]), torch.ones(2)]) == 4
    assert math.isnan(largest_number([torch.ones(2), torch.tensor([1.0, float("nan")])]))
    assert largest_number([torch.full((2,), -1e300, dtype=torch.float64), torch.ones(1)]) == 1e300
    assert largest_number([torch.tensor([-2.0]).to(torch.float8_e4m3fn)]) == 2
    assert is_finite([torch.tensor([1.0]).to(torch.float8_e5m2)])
    assert not is_finite([torch.tensor([float("inf")]).to(torch.float8_e5m2)])


def test_parameters_are_bounded_and_buffers_are_not() -> None:
    state = {"weight": torch.full((2,), LARGEST, dtype=torch.float64), "running_var": torch.full((2,), 1e30)}
    assert why_unusable(state, {"weight"}) == ""
    state["weight"][1] *= -1.1
    assert why_unusable(state, {"weight"}) == "its weights are as large as 1.1e+12 at weight, beyond 1e+12"
    assert why_unusable(state, set()) == ""
    state["running_var"][0] = float("inf")
    assert why_unusable(state, set()) == "its weights are not finite"
    assert why_not_heard(torch.full((2, 3), -1e29), "multiclass") == ""
    assert why_not_heard(torch.full((2, 3), -1.1e30), "binary").endswith("are as large as 1.1e+30, beyond 1e+30")
    assert why_not_heard(torch.full((2, 3), 1e14), "regression") == ""
    assert why_not_heard(torch.full((2, 3), 1.1e15), "regression").endswith("are as large as 1.1e+15, beyond 1e+15")


def test_what_is_beyond_is_looked_for_where_something_is() -> None:
    states = {"a": [torch.ones(2)], "b": [torch.ones(2), torch.full((1,), -3.0)], "c": [torch.full((1,), float("nan"))]}
    assert names_beyond(states, 4) == ["c"]
    assert names_beyond(states, 2) == ["b", "c"]
    assert names_beyond({"a": states["a"]}, 1) == []
