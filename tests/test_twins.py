import pytest
import torch

from hetfed_lightning.twins import Twins


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
