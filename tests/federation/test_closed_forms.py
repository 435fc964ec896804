"""Federated averaging of linear regressions against linear algebra.

Every participant k descends ``mean (X_k w - y_k)^2`` by full batches, so one local step is
``w - eta H_k (w - w_k)`` with ``H_k = 2 X_k'X_k / n_k`` and its own least squares ``w_k``. What the federation does
to the weights is then a matrix that can be written down.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hetfed_lightning import BackboneAveraging, FederatedDataModule, Federation
from hetfed_lightning.data import Examples
from tests.federations import fit, line, sgd, values

RATE = 0.2
SIZES = {"a": 8, "b": 20, "c": 12}


@pytest.fixture
def sets() -> dict[str, Examples]:
    return {name: values(size, features=2, seed=size) for name, size in SIZES.items()}


def tensors(data: Examples) -> tuple[Tensor, Tensor]:
    assert isinstance(data.inputs, Tensor)
    assert data.targets is not None
    return data.inputs, data.targets


def hessian(data: Examples) -> Tensor:
    inputs, _ = tensors(data)
    return 2 * inputs.T @ inputs / len(inputs)


def least_squares(data: Examples) -> Tensor:
    inputs, targets = tensors(data)
    solution: Tensor = torch.linalg.lstsq(inputs, targets).solution
    return solution


def shares() -> Tensor:
    sizes = torch.tensor(list(SIZES.values()), dtype=torch.float64)
    return sizes / sizes.sum()


def trained(
    sets: dict[str, Examples],
    rounds: int,
    averaging: BackboneAveraging,
    *,
    start: Sequence[float] = (0.0, 0.0),
    local_epochs: int = 1,
) -> Tensor:
    """The weights that all participants end with, shape (2, 1)."""
    members = {name: line(2, local_epochs=local_epochs, optimizer=sgd(RATE)).double() for name in sets}
    with torch.no_grad():
        for member in members.values():
            member.backbone.weight.copy_(torch.tensor([start], dtype=torch.float64))  # type: ignore[operator]
    federation = Federation(dict(members))
    data = FederatedDataModule(sets, batch_size={name: len(examples) for name, examples in sets.items()})
    fit(federation, data, rounds, averaging, precision="64-true")
    ends = [member.state_dict()["backbone.weight"] for member in members.values()]
    assert all(torch.equal(end, ends[0]) for end in ends)
    assert ends[0].dtype == torch.float64
    found: Tensor = ends[0].T
    return found


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() < tolerance)


def mean(maps: Sequence[Tensor]) -> Tensor:
    return torch.einsum("k,kij->ij", shares(), torch.stack(list(maps)))


def fixed_point(maps: Sequence[Tensor], own: Sequence[Tensor]) -> Tensor:
    """Where ``w = w - sum_k p_k maps_k (w - own_k)``."""
    solution: Tensor = torch.linalg.solve(mean(maps), mean([m @ w for m, w in zip(maps, own, strict=True)]))
    return solution


def after(rounds: int, maps: Sequence[Tensor], limit: Tensor) -> Tensor:
    """Where so many rounds from 0 lead: each takes ``I - sum_k p_k maps_k`` of the distance to the fixed point."""
    remaining = torch.eye(2, dtype=torch.float64) - mean(maps)
    assert torch.linalg.matrix_norm(remaining, 2) < 1  # so that the fixed point is where it ends
    distance: Tensor = torch.linalg.matrix_power(remaining, rounds) @ limit
    return limit - distance


def test_one_full_batch_step_each_is_one_step_of_the_pooled_regression(sets: dict[str, Examples]) -> None:
    inputs, targets = tensors(Examples.pooled(sets))
    start = torch.tensor([[0.5], [-1.0]], dtype=torch.float64)
    gradient = 2 * inputs.T @ (inputs @ start - targets) / len(inputs)
    found = trained(sets, 1, BackboneAveraging(), start=(0.5, -1.0))
    assert close(found, start - RATE * gradient, 1e-12)


def test_uniform_weights_take_the_mean_of_the_gradients(sets: dict[str, Examples]) -> None:
    # From w = 0 the local step is eta * 2 X_k'y_k / n_k; each counts a third.
    steps = [RATE * 2 * x.T @ y / len(x) for x, y in map(tensors, sets.values())]
    found = trained(sets, 1, BackboneAveraging(weighting="uniform"))
    assert close(found, torch.stack(steps).mean(dim=0), 1e-12)


def test_single_steps_end_at_pooled_least_squares(sets: dict[str, Examples]) -> None:
    limit = least_squares(Examples.pooled(sets))
    assert close(trained(sets, 1, BackboneAveraging(), start=limit.flatten().tolist()), limit, 1e-12)
    on_the_way = after(8, [RATE * hessian(data) for data in sets.values()], limit)
    assert close(trained(sets, 8, BackboneAveraging()), on_the_way, 1e-12)


@pytest.mark.parametrize("local_epochs", [2, 5])
def test_several_local_steps_have_a_fixed_point_of_their_own(sets: dict[str, Examples], local_epochs: int) -> None:
    # E local steps map w - w_k to (I - eta H_k)^E (w - w_k), so w moves by -P_k (w - w_k), P_k = I - (I - eta H_k)^E.
    eye = torch.eye(2, dtype=torch.float64)
    maps = [eye - torch.linalg.matrix_power(eye - RATE * hessian(data), local_epochs) for data in sets.values()]
    expected = fixed_point(maps, [least_squares(data) for data in sets.values()])
    assert not close(expected, least_squares(Examples.pooled(sets)), 1e-2)
    stays = trained(sets, 1, BackboneAveraging(), start=expected.flatten().tolist(), local_epochs=local_epochs)
    assert close(stays, expected, 1e-12)
    found = trained(sets, 4, BackboneAveraging(), local_epochs=local_epochs)
    assert close(found, after(4, maps, expected), 1e-12)


def test_fedprox_has_the_fixed_point_of_its_affine_map(sets: dict[str, Examples]) -> None:
    # w <- w - eta (H (w - w_k) + mu (w - w_t)) rests at c = A^-1 (H w_k + mu w_t), A = H + mu I, and E steps from w_t
    # end at c + (I - eta A)^E (w_t - c). As w_t - c = A^-1 H (w_t - w_k), a round moves w_t by
    # -P A^-1 H (w_t - w_k) with P = I - (I - eta A)^E.
    proximal, local_epochs = 0.7, 4
    eye = torch.eye(2, dtype=torch.float64)
    maps = []
    for data in sets.values():
        own = hessian(data)
        anchored = own + proximal * eye
        moved = eye - torch.linalg.matrix_power(eye - RATE * anchored, local_epochs)
        maps.append(moved @ torch.linalg.solve(anchored, own))
    expected = fixed_point(maps, [least_squares(data) for data in sets.values()])
    averaging = BackboneAveraging(proximal=proximal)
    stays = trained(sets, 1, averaging, start=expected.flatten().tolist(), local_epochs=local_epochs)
    assert close(stays, expected, 1e-12)
    found = trained(sets, 4, BackboneAveraging(proximal=proximal), local_epochs=local_epochs)
    assert close(found, after(4, maps, expected), 1e-12)
    plain = trained(sets, 1, BackboneAveraging(), start=expected.flatten().tolist(), local_epochs=local_epochs)
    assert not close(plain, expected, 1e-4)


def averages(sets: dict[str, Examples], weights: Tensor) -> Tensor:
    """Mean of one local step each."""
    return mean([weights - RATE * hessian(data) @ (weights - least_squares(data)) for data in sets.values()])


def test_server_gradient_descent_with_rate_one_is_plain_averaging(sets: dict[str, Examples]) -> None:
    plain = trained(sets, 3, BackboneAveraging())
    served = trained(sets, 3, BackboneAveraging(server_optimizer=sgd(1.0)))
    assert close(served, plain, 1e-14)


def test_server_momentum_by_hand(sets: dict[str, Examples]) -> None:
    rate, momentum = 0.8, 0.5
    weights, velocity = torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    for _ in range(3):
        velocity = momentum * velocity + (weights - averages(sets, weights))
        weights = weights - rate * velocity
    found = trained(sets, 3, BackboneAveraging(server_optimizer=sgd(rate, momentum=momentum)))
    assert close(found, weights, 1e-12)


def test_server_adam_by_hand(sets: dict[str, Examples]) -> None:
    rate, first_decay, second_decay, tiny = 0.1, 0.8, 0.95, 1e-3
    weights = torch.zeros(2, 1, dtype=torch.float64)
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    for step in range(1, 4):
        change = weights - averages(sets, weights)
        first = first_decay * first + (1 - first_decay) * change
        second = second_decay * second + (1 - second_decay) * change**2
        unbiased = (second / (1 - second_decay**step)).sqrt()
        weights = weights - rate * (first / (1 - first_decay**step)) / (unbiased + tiny)

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=rate, betas=(first_decay, second_decay), eps=tiny)

    found = trained(sets, 3, BackboneAveraging(server_optimizer=adam))
    assert close(found, weights, 1e-12)


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_equal_states_come_back_in_every_bit(precision: Any) -> None:
    # Nothing moves at rate zero, so every participant brings the same state. Shares of 8, 20 and 12 of 40 are no sums
    # of powers of two: of a hundred numbers some change in a mean that is summed up naively.
    dtype = torch.float64 if precision == "64-true" else torch.float32
    data = {name: values(size, features=100, seed=size, dtype=dtype) for name, size in SIZES.items()}
    start = torch.randn(100, generator=torch.Generator().manual_seed(0)).tolist()
    members = {name: line(100, weights=start, optimizer=sgd(0.0)).to(dtype) for name in data}
    with torch.no_grad():
        for member in members.values():
            member.backbone.weight.div_(3)  # type: ignore[operator]
    before = members["a"].state_dict()["backbone.weight"].clone()
    fit(Federation(dict(members)), FederatedDataModule(data, batch_size=7), 2, BackboneAveraging(), precision=precision)
    for member in members.values():
        assert torch.equal(member.state_dict()["backbone.weight"], before)
