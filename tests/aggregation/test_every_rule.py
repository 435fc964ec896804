"""One battery for every rule in the package: a new file is tested before anyone writes a test for it."""

import copy
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hetfed_lightning import aggregation
from hetfed_lightning.aggregation import AggregationFunction, AggregationRule

PARTICIPANTS = 7


def rules() -> Iterator[tuple[str, AggregationFunction]]:
    """Every public function of (states, weights) and every rule class, built with its defaults."""
    for info in pkgutil.iter_modules(aggregation.__path__, f"{aggregation.__name__}."):
        module = importlib.import_module(info.name)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
                continue
            if inspect.isclass(thing) and issubclass(thing, AggregationRule) and not inspect.isabstract(thing):
                yield name, thing()
            elif inspect.isfunction(thing) and list(inspect.signature(thing).parameters) == [
                "states",
                "weights",
            ]:
                yield name, thing


RULES = dict(rules())
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def make_states(device: str = "cpu") -> list[dict[str, Tensor]]:
    """K states with a tensor of every sort that a state_dict holds."""
    generator = torch.Generator().manual_seed(0)

    def one(index: int) -> dict[str, Tensor]:
        weight = torch.randn(3, 4, generator=generator)
        state = {
            "weight": torch.nn.Parameter(weight),
            "turned": weight.t() * 2,
            "scalar": torch.tensor(float(index)),
            "empty": torch.zeros(0, 5),
            "double": weight.double() / 3,
            "brain": weight.bfloat16(),
            "half": weight.half(),
            "steps": torch.tensor(index),
            "seen": torch.tensor([index % 2 == 0, False]),
        }
        return {key: tensor.to(device) for key, tensor in state.items()}

    return [one(index) for index in range(PARTICIPANTS)]


def least(rule: AggregationFunction) -> int:
    """How few participants the rule can do with."""
    return rule.least_participants() if isinstance(rule, AggregationRule) else 1


def skip_without(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no accelerator here")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_walk_finds_the_rules() -> None:
    known = {"weighted_mean", "coordinate_median", "TrimmedMean", "GeometricMedian", "MultiKrum"}
    assert known <= RULES.keys()


@every_device
@every_rule
def test_keeps_keys_shapes_dtypes_and_device(rule: AggregationFunction, device: str) -> None:
    skip_without(device)
    states = make_states(device)
    result = rule(states, torch.arange(1, PARTICIPANTS + 1))
    assert list(result) == list(states[0])
    for key, tensor in states[0].items():
        assert (result[key].shape, result[key].dtype, result[key].device) == (
            tensor.shape,
            tensor.dtype,
            tensor.device,
        ), key


@every_rule
def test_is_finite_and_deterministic(rule: AggregationFunction) -> None:
    weights = torch.arange(1.0, PARTICIPANTS + 1)
    first, second = rule(make_states(), weights), rule(make_states(), weights)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in first.values())
    assert same(first, second)


@every_rule
def test_leaves_its_inputs_as_they_are(rule: AggregationFunction) -> None:
    states, weights = make_states(), torch.arange(1.0, PARTICIPANTS + 1)
    states_before, weights_before = copy.deepcopy(states), weights.clone()
    result = rule(states, weights)
    for tensor in result.values():
        # Written into in place, as a careless caller would.
        torch.nn.init.zeros_(tensor)
    assert torch.equal(weights, weights_before)
    assert all(same(state, before) for state, before in zip(states, states_before, strict=True))


@every_rule
@pytest.mark.parametrize("participants", [1, PARTICIPANTS])
def test_shares_no_memory_with_its_inputs(rule: AggregationFunction, participants: int) -> None:
    states = make_states()[:1] * max(participants, least(rule))
    result = rule(states, torch.ones(len(states)))
    given = {tensor.untyped_storage().data_ptr() for tensor in states[0].values() if tensor.numel()}
    assert all(tensor.untyped_storage().data_ptr() not in given for tensor in result.values() if tensor.numel())


@every_rule
def test_holds_no_more_memory_than_it_shows(rule: AggregationFunction) -> None:
    # torch.save of a view writes all of the storage behind it.
    for key, tensor in rule(make_states(), torch.ones(PARTICIPANTS)).items():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size(), key


@every_rule
def test_carries_no_gradient(rule: AggregationFunction) -> None:
    result = rule(make_states(), torch.ones(PARTICIPANTS))
    assert not any(tensor.requires_grad for tensor in result.values())


@every_rule
def test_counters_stay_counters(rule: AggregationFunction) -> None:
    result = rule(make_states(), torch.ones(PARTICIPANTS))
    assert result["steps"].dtype == torch.int64
    assert 0 <= result["steps"].item() < PARTICIPANTS
    assert result["seen"].dtype == torch.bool


@every_rule
def test_does_not_depend_on_the_order(rule: AggregationFunction) -> None:
    states, weights = make_states(), torch.arange(1.0, PARTICIPANTS + 1)
    torch.testing.assert_close(rule(states[::-1], weights.flip(0)), rule(states, weights))


@every_rule
@pytest.mark.parametrize("participants", [1, 2, PARTICIPANTS])
def test_equal_states_are_a_fixed_point(rule: AggregationFunction, participants: int) -> None:
    state = {key: tensor.detach() for key, tensor in make_states()[3].items()}
    count = max(participants, least(rule))
    result = rule([copy.deepcopy(state) for _ in range(count)], torch.ones(count))
    torch.testing.assert_close(result, state)


@every_rule
def test_refuses_fewer_than_its_least_by_both_numbers(rule: AggregationFunction) -> None:
    few = least(rule) - 1
    with pytest.raises(
        ValueError, match=rf"at least {'one state, got none' if few == 0 else rf'{few + 1}.*got {few}'}"
    ):
        rule(make_states()[:few], torch.ones(few))


@every_rule
def test_survives_pickling(rule: AggregationFunction) -> None:
    copied: AggregationFunction = pickle.loads(pickle.dumps(rule))
    weights = torch.ones(PARTICIPANTS)
    assert same(copied(make_states(), weights), rule(make_states(), weights))


@every_rule
def test_refuses_a_shape_that_would_broadcast(rule: AggregationFunction) -> None:
    states = make_states()
    states[2]["turned"] = states[2]["turned"][:1]
    with pytest.raises(ValueError, match=r"participant 2, key 'turned'.*got \(1, 3\)"):
        rule(states, torch.ones(PARTICIPANTS))
