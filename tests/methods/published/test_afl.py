"""AFL: the pooled ridge solution however examples are dealt out, told once; refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from hetfed_lightning import FederatedDataModule, Federation, Participant
from hetfed_lightning.data import Examples
from hetfed_lightning.methods.published.afl import AFL
from tests.federations import examples, fit, line, sgd, state_of, tiny_data, tiny_participant, values
from tests.methods.published.by_hand import Cohort

NAMES = "abc"


def alike(*, bias: bool = True, **settings: Any) -> Federation:
    """Participants of one backbone, with different heads."""
    backbone = tiny_participant().backbone.state_dict()
    made = {}
    for place, name in enumerate(NAMES):
        one = tiny_participant(seed=place)
        one.backbone.load_state_dict(backbone)
        made[name] = Participant(one.backbone, one.head if bias else nn.Linear(5, 3, bias=False), optimizer=sgd())
    return Federation(made, **settings)


def pooled(names: str, ridge: float, sets: dict[str, Examples], *, bias: bool = True) -> Any:
    """Ridge regression of scikit-learn on the pooled examples of some participants."""
    backbone = tiny_participant().backbone.double()
    inputs = torch.cat([torch.as_tensor(sets[name].inputs) for name in names]).double()
    target = torch.cat([torch.as_tensor(sets[name].targets) for name in names])
    features = backbone(inputs).detach().numpy()
    return Ridge(ridge, fit_intercept=bias, solver="svd").fit(features, np.eye(3)[target.numpy()])


def own_sets() -> dict[str, Examples]:
    return {name: examples(12 + 4 * place, seed=place) for place, name in enumerate(NAMES)}


def sorted_by_class() -> dict[str, Examples]:
    """The same 48 examples, each class with one participant: of unequal numbers, and one class each."""
    whole = list(own_sets().values())
    inputs = torch.cat([torch.as_tensor(one.inputs) for one in whole])
    target = torch.cat([torch.as_tensor(one.targets) for one in whole])
    return {name: Examples(inputs[target == place], target[target == place]) for place, name in enumerate(NAMES)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("deal", [own_sets, sorted_by_class])
def test_every_head_is_the_pooled_ridge_solution_whatever_the_partition(deal: Any, bias: bool) -> None:
    made = alike(bias=bias)
    before = state_of(made["b"].backbone)
    sets = deal()
    fit(made, FederatedDataModule(sets, batch_size=4), 1, AFL(0.3), precision="64-true")
    expected = pooled(NAMES, 0.3, sets, bias=bias)
    for name in NAMES:
        head = made[name].head
        assert np.abs(head.get_parameter("weight").detach().numpy() - expected.coef_).max() < 1e-12
        if bias:
            assert np.abs(head.get_parameter("bias").detach().numpy() - expected.intercept_).max() < 1e-12
    assert all(torch.equal(one, before[key].double()) for key, one in state_of(made["b"].backbone).items())


def test_without_a_penalty_it_is_least_squares() -> None:
    made = alike()
    fit(made, tiny_data(evaluated=False), 1, AFL(0.0), precision="64-true")
    expected = pooled(NAMES, 0.0, own_sets())
    assert np.abs(made["a"].head.get_parameter("weight").detach().numpy() - expected.coef_).max() < 1e-9


def test_each_is_told_of_once_when_it_is_first_sampled() -> None:
    made, cohort = alike(participation=0.6), Cohort()
    run = fit(made, tiny_data(evaluated=False), 4, AFL(0.3), cohort, precision="64-true")
    assert len(cohort.rounds[0]) == 2
    assert set().union(*cohort.rounds) == set(NAMES)
    assert (
        np.abs(made["a"].head.get_parameter("weight").detach().numpy() - pooled(NAMES, 0.3, own_sets()).coef_).max()
        < 1e-12
    )
    assert run.callback_metrics["federation/bytes_up/AFL"] == 0

    first = alike(participation=0.6)
    fit(first, tiny_data(evaluated=False), 1, AFL(0.3), precision="64-true")
    known = pooled("".join(cohort.rounds[0]), 0.3, own_sets())
    for name in NAMES:
        assert np.abs(first[name].head.get_parameter("weight").detach().numpy() - known.coef_).max() < 1e-12


def test_who_cannot_take_part_is_refused() -> None:
    unlike = Federation({name: tiny_participant(seed=place) for place, name in enumerate("ab")})
    with pytest.raises(ValueError, match="those of 'a' and 'b' have different values"):
        fit(unlike, tiny_data("ab"), 1, AFL())
    wide = Federation({"a": tiny_participant(), "b": tiny_participant(hidden=6)})
    with pytest.raises(ValueError, match="that of 'a' has 6 weights for each of 3 classes, that of 'b' 7"):
        fit(wide, tiny_data("ab"), 1, AFL())
    lines = Federation({name: line() for name in "ab"})
    with pytest.raises(ValueError, match="AFL has a vector for each class, and its task is regression"):
        fit(lines, FederatedDataModule({name: values(8, dtype=torch.float32) for name in "ab"}), 1, AFL())
    deep = tiny_participant()
    deep.head = nn.Sequential(deep.head)
    with pytest.raises(ValueError, match=r"AFL solves a linear head, and its head is a Sequential"):
        fit(Federation({"a": deep}), tiny_data("a"), 1, AFL())
    with pytest.raises(ValueError, match="ridge: expected"):
        AFL(-1.0)
