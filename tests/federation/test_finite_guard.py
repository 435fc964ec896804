import logging

import pytest
import torch

from hetfed_lightning.federation.finite_guard import FiniteGuard
from tests.federations import equal, state_of, tiny_participant


def test_quarantine_restores_once_and_names_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    guard, member = FiniteGuard(), tiny_participant()
    optimizer = torch.optim.Adam(member.parameters())
    before = state_of(member)
    guard.open_round({"a": member})
    member(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    with caplog.at_level(logging.WARNING):
        guard.quarantine("a", member, [optimizer], 4, "first")
        guard.quarantine("a", member, [optimizer], 4, "second")
    assert equal(state_of(member), before)
    assert not optimizer.state
    assert all(parameter.grad is None for parameter in member.parameters())
    assert guard.quarantined == {"a": "first"}
    assert len(caplog.records) == 1
    guard.open_round({"a": member})
    assert guard.quarantined == {}


def test_a_state_that_is_not_finite_is_never_safe() -> None:
    guard, member = FiniteGuard(), tiny_participant()
    before = state_of(member)
    guard.open_round({"a": member})
    with torch.no_grad():
        next(member.parameters()).fill_(float("nan"))
    guard.open_round({"a": member})
    safe = guard.safe_state("a")
    assert safe is not None
    assert equal(safe, before)
    assert guard.safe_state("b") is None


def test_the_safe_state_is_a_copy() -> None:
    guard, member = FiniteGuard(), tiny_participant()
    before = state_of(member)
    guard.open_round({"a": member})
    with torch.no_grad():
        next(member.parameters()).add_(1)
    safe = guard.safe_state("a")
    assert safe is not None
    assert equal(safe, before)


def test_what_members_have_alike_is_kept_once() -> None:
    guard, members = FiniteGuard(), {name: tiny_participant() for name in "abc"}
    with torch.no_grad():
        members["c"].head.bias.add_(1)  # type: ignore[operator]
    guard.open_round(members)
    safe = {name: guard.safe_state(name) or {} for name in members}
    assert all(safe["b"][key] is tensor for key, tensor in safe["a"].items())
    assert [key for key, tensor in safe["c"].items() if tensor is not safe["a"][key]] == ["head.bias"]
    assert all(equal(safe[name], state_of(member)) for name, member in members.items())


def test_memory_that_somebody_returns_to_is_not_overwritten() -> None:
    guard, members = FiniteGuard(), {name: tiny_participant() for name in "ab"}
    before = state_of(members["a"])
    guard.open_round(members)
    with torch.no_grad():
        members["a"].head.bias.fill_(float("nan"))  # type: ignore[operator]
        for parameter in members["b"].parameters():
            parameter.add_(1)
    guard.open_round(members)
    safe = {name: guard.safe_state(name) or {} for name in members}
    assert equal(safe["a"], before)
    assert equal(safe["b"], state_of(members["b"]))


def test_memory_is_taken_again() -> None:
    guard, members = FiniteGuard(), {name: tiny_participant(seed=seed) for seed, name in enumerate("ab")}
    places = []
    for _ in range(3):
        guard.open_round(members)
        states = [guard.safe_state(name) or {} for name in members]
        places.append({tensor.data_ptr() for state in states for tensor in state.values()})
        for member in members.values():
            with torch.no_grad():
                member.head.weight.add_(1)  # type: ignore[operator]
    assert places[0] == places[1] == places[2]
