import math

import pytest
import torch

from hetfed_lightning.aggregation import State, check_states

ONE = torch.ones(1)
TWO = torch.ones(2)


def state(**tensors: torch.Tensor) -> State:
    return tensors


def test_states_that_agree_pass() -> None:
    check_states([state(w=torch.zeros(3)), state(w=torch.ones(3))], torch.tensor([0, 5]), names=["a", "b"])


def test_non_finite_values_are_somebody_elses_business() -> None:
    check_states([state(w=torch.tensor([math.nan])), state(w=torch.tensor([math.inf]))], TWO)


def test_refuses_no_states() -> None:
    with pytest.raises(ValueError, match="expected at least one state, got none"):
        check_states([], torch.ones(0))


def test_refuses_other_keys_by_name() -> None:
    states = [state(w=ONE, b=ONE), state(w=ONE, bias=ONE)]
    with pytest.raises(ValueError, match=r"'clinic'.*keys as participant 'hospital'.*\['b'\].*\['bias'\]"):
        check_states(states, TWO, names=["hospital", "clinic"])


def test_refuses_a_shape_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"participant 1, key 'w'.*\(3,\) as participant 0 has, got \(1,\)"):
        check_states([state(w=torch.zeros(3)), state(w=torch.zeros(1))], TWO)


def test_refuses_another_dtype() -> None:
    with pytest.raises(ValueError, match=r"'b', key 'w'.*torch.float32 .* got torch.float64"):
        check_states([state(w=ONE), state(w=ONE.double())], TWO, names=["a", "b"])


def test_refuses_another_device() -> None:
    with pytest.raises(ValueError, match=r"key 'w'.*expected device cpu .* got meta"):
        check_states([state(w=ONE), state(w=ONE.to("meta"))], TWO)


def test_refuses_complex_tensors() -> None:
    with pytest.raises(ValueError, match=r"key 'w'.*real tensor, got torch.complex64"):
        check_states([state(w=torch.zeros(2, dtype=torch.complex64))], ONE)


def test_refuses_what_is_no_tensor() -> None:
    extra: dict[str, torch.Tensor] = {"_extra_state": {"version": 3}}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"key '_extra_state'.*expected a tensor, got dict"):
        check_states([extra], ONE)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_refuses_weights_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"weights of shape \(2,\)"):
        check_states([state(w=ONE), state(w=ONE)], torch.ones(shape))


@pytest.mark.parametrize("weight", [-9.0, math.nan, math.inf])
def test_refuses_a_weight_that_is_none_by_name(weight: float) -> None:
    with pytest.raises(ValueError, match=f"'liar': expected a finite weight of at least 0, got {weight}"):
        check_states([state(w=ONE), state(w=ONE)], torch.tensor([1.0, weight]), names=["a", "liar"])


def test_refuses_weights_that_are_all_zero() -> None:
    with pytest.raises(ValueError, match="at least one positive weight, got 2 zeros"):
        check_states([state(w=ONE), state(w=ONE)], torch.zeros(2))


def test_refuses_names_that_are_too_few() -> None:
    with pytest.raises(ValueError, match="expected 2 names"):
        check_states([state(w=ONE), state(w=ONE)], TWO, names=["a"])
