import pytest
import torch

from hetfed_lightning.shared_storage.deduplicate import Twins


def test_the_first_of_equals_is_given() -> None:
    twins, first = Twins(), torch.tensor([1.0, 2.0])
    assert twins.of("k", first) is first
    assert twins.of("k", first.clone()) is first
    assert twins.of("other", twin := first.clone()) is twin


@pytest.mark.parametrize(
    "other",
    [
        torch.tensor([1.0, 3.0]), torch.tensor([1.0]), torch.tensor([[1.0, 2.0]]),
        torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([1, 2]),
    ],
)  # fmt: skip
def test_what_differs_has_no_twin(other: torch.Tensor) -> None:
    twins = Twins(2)
    twins.of("k", torch.tensor([1.0, 2.0]))
    assert twins.of("k", other) is other
    assert twins.of("k", other.clone()) is other


def test_what_is_not_a_number_equals_nothing() -> None:
    twins, nan = Twins(), torch.tensor([float("nan")])
    twins.of("k", nan)
    assert twins.of("k", again := nan.clone()) is again


def test_only_so_many_are_compared() -> None:
    twins, seen = Twins(2), [torch.tensor([float(value)]) for value in range(3)]
    for tensor in seen:
        twins.of("k", tensor)
    assert [twins.of("k", tensor.clone()) in seen[:2] for tensor in seen[:2]] == [True, True]
    assert twins.of("k", again := seen[2].clone()) is again


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.bool]
)
@pytest.mark.parametrize("count", [10_000, 20_001])
def test_large_ones_are_told_apart_by_their_last_element(dtype: torch.dtype, count: int) -> None:
    twins, first = Twins(2), torch.ones(count, dtype=dtype)
    assert twins.of("k", first) is first
    assert twins.of("k", first.clone()) is first
    other = first.clone()
    other[-1] = 0
    assert twins.of("k", other) is other
    assert twins.of("k", first.view(1, -1).clone()) is not first


def test_memory_that_is_not_in_order_is_compared_by_its_values() -> None:
    twins, first = Twins(), torch.randn(100, 200)
    twins.of("k", first)
    assert twins.of("k", first.T.clone().T) is first
    assert twins.of("k", again := first.T.clone()) is again
