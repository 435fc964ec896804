"""Methods that cannot work, and slips of the pen, told before the first step; losses of a wrong shape at the first."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from hetfed_lightning import Combined, Method
from hetfed_lightning.federation.preflight_methods import HOOKS
from hetfed_lightning.methods.loss_checks import checked_losses, checked_term
from hetfed_lightning.methods.messages import Exchange, MessageError
from hetfed_lightning.methods.method_hooks import MethodHooks
from tests.federations import fit, tiny_data, tiny_federation
from tests.methods.test_hook_results import Heads, fitted, with_hooks

CANNOT: dict[str, tuple[Any, Any, str]] = {
    "one exchange": ("exchanges", Exchange("start"), "expected Exchanges in a list, got Exchange"),
    "no list": ("exchanges", None, r"expected Exchanges in a list, got None. Set .*, or \(\) for none"),
    "no such moment": ("exchanges", [Exchange("middle")], "when to be 'start' or 'end'"),  # type: ignore[arg-type]
    "nobody": ("exchanges", [Exchange("end", "all")], "who to be 'sampled' or 'joined'"),  # type: ignore[arg-type]
    "twice": ("exchanges", [Exchange(), Exchange("end", "joined")], "there are 2 at the end of a round"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_exchanges_that_cannot_be_are_refused_by_name(case: str) -> None:
    attribute, value, words = CANNOT[case]
    with pytest.raises(ValueError, match=f"^Mine.{attribute}: .*{words}"):
        fitted(with_hooks(**{attribute: value}))


def test_a_hook_with_other_arguments_is_refused_before_training() -> None:
    with pytest.raises(
        TypeError, match=r"^Mine.send\(participant, data\) cannot be called with the 4 arguments .*work,"
    ):
        fitted(with_hooks(send=lambda self, participant, data: {}))
    method = with_hooks(combine=lambda self, sent, *rest, **more: Combined(None))
    fitted(method)


def warnings_of(method: Any, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        fitted(method, 1)
    return caplog.messages


def test_a_misspelt_hook_is_warned_of_unless_it_is_used(caplog: pytest.LogCaptureFixture) -> None:
    def example_los(self: Any, own: Any, *rest: Any) -> Any:
        return own

    (told,) = warnings_of(with_hooks(example_los=example_los), caplog)
    assert told.startswith("Mine.example_los: a method has nothing of that name")
    assert "'example_loss'" in told
    (told,) = warnings_of(with_hooks(replace_state=True), caplog)
    assert "did you mean 'replaces_state'" in told

    class Used(Heads):
        def group(self) -> float:
            return 3.0

        def describe(self, participant: Any, data: Any) -> Any:
            return {"n": torch.tensor([twice() for twice in (self.group,)])}

    assert not warnings_of(Used(), caplog)
    assert not warnings_of(with_hooks(anything_else=lambda self: None), caplog)


MODULES: dict[str, tuple[Any, type[Exception], str]] = {
    "a class": (lambda self, _: {"m": nn.Linear}, TypeError, "a module at m, got the class Linear: make one of it"),
    "no name": (
        lambda self, _: {"m.n": nn.Linear(1, 1)},
        TypeError,
        "names without a full stop, such as 'common', got",
    ),
    "its own head": (lambda self, one: {"m": one.head}, ValueError, "m has parameters of the participant itself"),
    "lazy": (lambda self, _: {"m": nn.Sequential(nn.LazyLinear(2))}, ValueError, r"m: 0 \(LazyLinear\) has no weights"),
}


@pytest.mark.parametrize("case", MODULES)
def test_modules_that_cannot_be_are_refused_by_name(case: str) -> None:
    modules, kind, words = MODULES[case]
    with pytest.raises(kind, match=f"^participant 'a': Mine.modules: .*{words}"):
        fitted(with_hooks(modules=modules))


def test_a_module_of_two_participants_is_refused() -> None:
    common = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^participant 'b': Mine.modules gives it parameters that 'a' has got"):
        fitted(with_hooks(modules=lambda self, _: {"m": common}))


LOSSES: dict[str, tuple[Any, str]] = {
    "a mean": (lambda own: own.mean(), r"a loss of each example, shape \(4,\), got shape \(\)"),
    "a column": (lambda own: own.unsqueeze(1), r"shape \(4,\), got shape \(4, 1\). .*squeeze\(1\)"),
    "a table": (lambda own: own.unsqueeze(1) + own, r"got shape \(4, 4\)"),
    "a part": (lambda own: own[:1], r"got shape \(1,\)"),
    "nothing": (lambda own: None, "got NoneType. Return own"),
    "cut off": (lambda own: own.detach(), "no gradient, so that nobody trains"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_loss_that_is_none_of_the_examples_is_refused(case: str) -> None:
    made, words = LOSSES[case]
    own = torch.ones(4, requires_grad=True) * 2
    with pytest.raises(MessageError, match=f"^Mine.example_loss: .*{words}"):
        checked_losses(made(own), own, "Mine")


@pytest.mark.parametrize("engine", ["sequential", "vmap"])
def test_no_engine_takes_a_column_of_losses(engine: str) -> None:
    method = with_hooks(example_loss=lambda self, own, *rest: own.unsqueeze(1))
    with pytest.raises(MessageError, match=r"Mine.example_loss: expected a loss of each example") as raised:
        fit(tiny_federation(engine=engine), tiny_data(evaluated=False), 1, method)
    assert any("participant 'a', round 0, batch 0" in one for one in raised.value.__notes__)


def test_a_term_is_a_scalar_and_none_is_zero() -> None:
    weights = {"w": torch.ones(3, dtype=torch.float64, requires_grad=True)}
    for found, expected in ((None, 0.0), (0, 0.0), (2.5, 2.5), (weights["w"].sum().reshape(1), 3.0)):
        term = checked_term(found, weights, "Mine")
        assert (term.shape, term.dtype, float(term.detach())) == ((), torch.float64, expected)
    for wrong in (weights["w"], "0"):
        with pytest.raises(MessageError, match=r"Mine.weight_term: expected a scalar, got (shape \(3,\)|str)"):
            checked_term(wrong, weights, "Mine")


@pytest.mark.parametrize("engine", ["sequential", "vmap"])
def test_a_term_without_a_gradient_is_warned_of_once(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    def told(term: Any) -> Sequence[str]:
        caplog.clear()
        method = with_hooks(weight_term=lambda self, parameters, context: term(parameters["head.weight"]))
        fit(tiny_federation(engine=engine), tiny_data(evaluated=False), 2, method)
        return [one for one in caplog.messages if "without a gradient" in one]

    with caplog.at_level(logging.WARNING):
        assert len(told(lambda weight: weight.detach().sum())) == 1
        assert not told(lambda weight: weight.sum())
        assert not told(lambda weight: None)


def test_what_a_user_writes_is_apart_from_what_the_round_calls() -> None:
    assert set(HOOKS) <= vars(MethodHooks).keys()
    assert {one for one in vars(Method).keys() & vars(MethodHooks).keys() if not one.startswith("__")} == set()
