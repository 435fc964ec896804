"""Hooks of a user's own method that return, write or raise what the protocol has no use for: told by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hetfed_lightning import Combined, Method
from hetfed_lightning.methods.hook_results import keep_own, tensors_by_key
from hetfed_lightning.methods.messages import MessageError
from hetfed_lightning.methods.sender_checks import unchanged
from tests.federations import fit, tiny_data, tiny_federation, tiny_participant

Hook = Callable[..., Any]


class Heads(Method):
    """Means of the heads' weights, which nobody uses."""

    def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
        return {"x": participant.head.weight}

    def combine(self, sent: Any, *rest: Any) -> Any:
        return Combined({"x": torch.stack([one["x"] for one in sent.values()]).mean(0)})


def with_hooks(**hooks: Any) -> Heads:
    """A method some of whose hooks are others."""
    made: Heads = type("Mine", (Heads,), hooks)()
    return made


def fitted(method: Method, rounds: int = 2, **settings: Any) -> Method:
    fit(tiny_federation(**settings), tiny_data(evaluated=False), rounds, method)
    return method


NO_TENSORS: dict[str, tuple[Any, str]] = {
    "nothing": (None, r"expected tensors by key, got nothing \(None\).*\{\} for nothing"),
    "a tensor": (torch.ones(2), "expected tensors by key, got Tensor. Return a dictionary"),
    "a list": ([torch.ones(2)], "expected tensors by key, got list"),
    "a number": ({"n": 3}, r"expected a tensor at n, got int. Write torch.tensor\(3\)"),
    "an array": ({"n": np.ones(2)}, "expected a tensor at n, got ndarray. torch.as_tensor makes one"),
    "two levels": ({"n": {"m": torch.ones(2)}}, "expected a tensor at n, got dict. .*'outer/inner'"),
    "a number as a key": ({1: torch.ones(2)}, "expected text as a key, got 1. Write '1'"),
    "sparse": ({"n": torch.eye(2).to_sparse()}, "expected a dense tensor at n, got one of layout torch.sparse_coo"),
}


@pytest.mark.parametrize("case", NO_TENSORS)
def test_what_is_no_tensor_by_key_is_told_with_its_remedy(case: str) -> None:
    found, words = NO_TENSORS[case]
    with pytest.raises(MessageError, match=f"here: {words}"):
        tensors_by_key(found, "here")


@pytest.mark.parametrize(
    ("hook", "where"),
    [("describe", "participant 'a': Mine.describe"), ("send", "Round 0: participant 'a': Mine.send")],
)
def test_hooks_of_participants_are_named_in_what_they_return_and_raise(hook: str, where: str) -> None:
    with pytest.raises(MessageError, match=f"^{where}: expected a tensor at n, got int"):
        fitted(with_hooks(**{hook: lambda *_: {"n": 3}}))
    with pytest.raises(ZeroDivisionError) as raised:
        fitted(with_hooks(**{hook: lambda *_: 1 / 0}))
    assert f"in {where}" in raised.value.__notes__


def test_receive_is_named_in_what_it_raises() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        fitted(with_hooks(receive=lambda *_: 1 / 0))
    assert "in Round 0: participant 'a': Mine.receive" in raised.value.__notes__


def test_a_message_without_numbers_is_refused() -> None:
    with pytest.raises(MessageError, match=r"Mine.send: expected numbers at x, got a layout"):
        fitted(with_hooks(send=lambda *_: {"x": torch.empty(2, device="meta")}))


def test_what_a_group_has_in_common_is_not_written_to() -> None:
    with pytest.raises(MessageError, match=r"participant 'a': Mine.receive: it writes to x of its result"):
        fitted(with_hooks(receive=lambda self, participant, data, state, context: state["x"].mul_(2)))

    def send(self: Any, participant: Any, data: Any, work: Any, context: Any) -> Any:
        if context.received:
            context.received["x"] += 1
        return {"x": participant.head.weight}

    with pytest.raises(MessageError, match=r"Round 1: participant 'a': Mine.send: it writes to x of context.received"):
        fitted(with_hooks(send=send))


def test_memory_holds_tensors_alone() -> None:
    def send(self: Any, participant: Any, data: Any, work: Any, context: Any) -> Any:
        context.memory["calls"] = context.memory.get("calls", 0) + 1
        return {"x": participant.head.weight}

    with pytest.raises(MessageError, match=r"Mine.send: context.memory: expected a tensor at calls, got int. Write"):
        fitted(with_hooks(send=send))


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_memory_does_not_follow_the_parameter_that_was_remembered(engine: str) -> None:
    remembered: list[tuple[torch.Tensor, torch.Tensor]] = []

    def send(self: Any, participant: Any, data: Any, work: Any, context: Any) -> Any:
        if participant.name == "a":
            if context.memory:
                remembered.append((context.memory["began"], before[-1]))
            before.append(participant.head.weight.detach().clone())
        context.memory["began"] = participant.head.weight
        return {"x": participant.head.weight}

    before: list[torch.Tensor] = []
    fitted(with_hooks(send=send), 3, engine=engine)
    assert len(remembered) == 2
    for found, expected in remembered:
        assert torch.equal(found, expected)
        assert not found.requires_grad


def test_tensors_of_ones_own_are_kept_as_they_are() -> None:
    mine, theirs = torch.ones(2), torch.ones(3)
    memory = {"mine": mine, "theirs": theirs[1:]}
    keep_own(memory, {"w": theirs}, "here")
    theirs.zero_()
    assert memory["mine"] is mine
    assert memory["theirs"].tolist() == [1.0, 1.0]


def test_whoever_plans_is_named_in_what_it_raises() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        fitted(with_hooks(plan=lambda *_: 1 / 0))
    assert raised.value.__notes__ == ["in participant 'a', round 0: Mine.plan for the moment 'local'"]

    def late(self: Any, participant: Any, moment: str, round_index: int) -> Any:
        return 1 / 0 if (participant.name, moment, round_index) == ("b", "received", 1) else ()

    with pytest.raises(ZeroDivisionError) as raised:
        fitted(with_hooks(plan=late))
    assert raised.value.__notes__ == ["in participant 'b', round 1: Mine.plan for the moment 'received'"]


def writes(participant: Any) -> None:
    with torch.no_grad():
        participant.head.bias.add_(1)


def writes_past_the_counter(participant: Any) -> None:
    participant.head.bias.data.add_(1)


def puts_another(participant: Any) -> None:
    participant.head.bias = torch.nn.Parameter(torch.ones(3))


CHANGES = [writes, writes_past_the_counter, puts_another]


@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_sender_that_is_changed_is_told(change: Hook, engine: str) -> None:
    def send(self: Any, participant: Any, data: Any, work: Any, context: Any) -> Any:
        if participant.name == "b":
            change(participant)
        return {"x": participant.head.weight}

    with pytest.raises(MessageError, match=r"Round 0: participant 'b': Mine.send: it changes head.bias of the part"):
        fitted(with_hooks(send=send), engine=engine)


def test_a_sender_that_is_changed_later_is_told_without_reading_values() -> None:
    def send(self: Any, participant: Any, data: Any, work: Any, context: Any) -> Any:
        if context.round_index == 1:
            writes(participant)
        return {"x": participant.head.weight}

    with pytest.raises(MessageError, match=r"Round 1: participant 'a': Mine.send: it changes head.bias"):
        fitted(with_hooks(send=send))


def test_a_sender_whose_batchnorm_counts_the_message_is_told() -> None:
    def send(self: Any, participant: Any, data: Any, work: Any, context: Any) -> Any:
        (inputs, _), *_ = data.batches()
        return {"x": participant(inputs).mean(0)}

    federation = tiny_federation()
    for one in federation.members().values():
        one.backbone = torch.nn.Sequential(one.backbone, torch.nn.BatchNorm1d(5))
    with pytest.raises(MessageError, match=r"Mine.send: it changes backbone.1.running_mean .* in evaluation mode"):
        fit(federation, tiny_data(evaluated=False), 1, with_hooks(send=send))


def test_values_that_are_not_finite_are_no_change() -> None:
    participant: Any = tiny_participant()
    with torch.no_grad():
        participant.head.bias.fill_(float("nan"))
    with unchanged(participant, "here", by_value=True):
        pass
