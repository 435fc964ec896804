"""The server's half of a method by itself: groups, messages that go together, results, bytes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from hetfed_lightning import Combined as Typed
from hetfed_lightning import Method
from hetfed_lightning.methods.messages import MessageError, PerParticipant
from hetfed_lightning.methods.server import Result, ServerSide

NAMES = ("a", "b", "c")
Combined: Any = Typed  # What types forbid is what the checks are for.
ONE = {name: {"x": torch.ones(2)} for name in NAMES}


def server(combine: Any = None, *groups: Any) -> ServerSide:
    """A server's half that has met three participants, with its hooks given as functions or as what they return."""

    class Mine(Method):
        def groups(self, about: Any) -> Any:
            return groups[0] if groups else super().groups(about)

        def combine(self, sent: Any, *rest: Any) -> Any:
            return combine(sent, *rest) if callable(combine) else combine

    made = ServerSide(Mine())
    made.meet({name: {} for name in NAMES})
    return made


def combined(found: Any, sent: Mapping[str, Any] = ONE, *groups: Any) -> Result:
    return server(found, *groups).combine(sent, NAMES, 3)


GROUPS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "expected names of members by group, such as .*, got NoneType"),
    "a name that nobody has": ({"all": ["a", "bb"]}, "no participant 'bb'; did you mean 'b'"),
    "one text": ({"all": "abc"}, "a list of names for the group 'all', got 'abc'"),
    "a member twice": ({"all": ["a", "b", "a"]}, "'a' is 2 times in the group 'all'"),
    "a number as a name": ({0: ["a"]}, "expected text as the name of a group, got 0"),
}


@pytest.mark.parametrize("case", GROUPS)
def test_groups_that_cannot_be_are_refused_before_training(case: str) -> None:
    found, words = GROUPS[case]
    with pytest.raises(MessageError, match=f"^Mine.groups: .*{words}"):
        server(None, found)


RESULTS: dict[str, tuple[Any, str]] = {
    "a dictionary": ({"x": torch.ones(2)}, r"expected a Combined, got dict. Return Combined\(\{...\}\)"),
    "nothing": (None, "expected a Combined, got NoneType"),
    "a tensor as the state": (Combined(torch.ones(2)), "expected tensors by key, got Tensor"),
    "an array": (Combined({"x": np.ones(2)}), "expected a tensor at x, got ndarray"),
    "for a stranger": (Combined(PerParticipant({"d": {}})), "'d' is no member of the group"),
    "a word as a figure": (Combined(None, {"f": "12"}), "one or several numbers at f, got '12'"),
    "a vector as a figure": (Combined(None, {"f": torch.ones(2)}), "one or several numbers at f"),
    "a figure of the federation": (Combined(None, {"bytes_up": 1}), "federation/bytes_up is logged of each round"),
    "a word for stop": (Combined(None, stop="no"), "expected True or False, got 'no'"),
}


@pytest.mark.parametrize("case", RESULTS)
def test_results_that_cannot_be_are_told_with_round_and_senders(case: str) -> None:
    found, words = RESULTS[case]
    with pytest.raises(MessageError, match=f"^Round 3: Mine.combine of a, b, c.*{words}"):
        combined(found)


def test_numbers_of_any_kind_are_figures() -> None:
    found = combined(Combined(None, {"f": torch.tensor(2.0), "g": [1, np.float32(2)]}, stop=np.True_))
    assert found.figures == {"f": 2.0, "g": 1.5}
    assert found.stop is True


def test_combine_is_named_in_what_it_raises_and_writes_to_no_result() -> None:
    with pytest.raises(KeyError) as raised:
        combined(lambda sent, *rest: sent["a"]["y"])
    assert raised.value.__notes__ == ["in Round 3: Mine.combine of a, b, c"]

    def adds(sent: Any, asked: Any, about: Any, memory: Any, round_index: int) -> Any:
        for one in memory.last.values():
            one.add_(1)
        return Combined({"x": torch.ones(2)})

    half = server(adds)
    half.combine(ONE, NAMES, 0)
    with pytest.raises(MessageError, match=r"it writes to x of server.last"):
        half.combine(ONE, NAMES, 1)


@pytest.mark.parametrize(
    ("other", "found"),
    [({"y": torch.ones(2)}, "torch.float32 of a and missing of b"),
     ({}, "torch.float32 of a and missing of b"),
     ({"x": torch.ones(2).double()}, "torch.float32 of a and torch.float64 of b")],
)  # fmt: skip
def test_messages_of_a_group_have_equal_keys_and_dtypes(other: Any, found: str) -> None:
    sent = {"a": {"x": torch.ones(2)}, "b": other}
    with pytest.raises(MessageError, match=f"equal keys and dtypes in a group, and x is {found}"):
        combined(Combined(None), sent)
    # Each in a group of its own, nothing is wrong.
    combined(Combined(None), sent, {"first": ["a"], "others": ["b", "c"]})


def test_shapes_that_would_be_stretched_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    half = server(lambda sent, *rest: Combined({"sum": sum(one["x"] for one in sent.values())}))
    with caplog.at_level(logging.WARNING):
        for round_index in range(2):
            half.combine({"a": {"x": torch.ones(2, 3)}, "b": {"x": torch.ones(())}}, NAMES, round_index)
        assert ["x has shape (2, 3) of a and () of b" in one for one in caplog.messages] == [True]
        caplog.clear()
        # Rows of several examples each, which no sum takes by mistake.
        server(Combined(None)).combine({"a": {"x": torch.ones(2, 3)}, "b": {"x": torch.ones(4, 3)}}, NAMES, 0)
        assert not caplog.messages


def test_who_sends_and_is_in_no_group_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        combined(Combined(None), ONE, {"all": ["a", "b"]})
    assert "what c sent is combined with nothing, since groups has no group of theirs" in caplog.text


def test_two_groups_of_somebody_have_results_of_different_keys() -> None:
    both = {"g": ["a", "b"], "h": ["b", "c"]}

    def keyed(sent: Any, asked: Any, about: Any, memory: Any, round_index: int) -> Any:
        return Combined({memory.group: torch.ones(2)})

    half = server(keyed, both)
    half.combine(ONE, NAMES, 0)
    assert {name: set(half.received_by(name)) for name in NAMES} == {"a": {"g"}, "b": {"g", "h"}, "c": {"h"}}
    with pytest.raises(MessageError, match="both groups 'g' and 'h' would receive two tensors as x"):
        combined(Combined({"x": torch.ones(2)}), ONE, both)


def test_a_result_for_all_follows_one_for_each() -> None:
    results = iter([
        Combined(PerParticipant({"a": {"x": torch.zeros(2)}})),
        Combined({"x": torch.ones(2)}),
        Combined(PerParticipant({"b": {"x": torch.full((2,), 2.0)}})),
    ])  # fmt: skip
    half = server(lambda *_: next(results))
    received = []
    for round_index in range(3):
        half.combine(ONE, NAMES, round_index)
        received.append({name: one["x"].tolist()[0] for name in NAMES if (one := half.received_by(name))})
    assert received == [{"a": 0.0}, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 2.0, "c": 1.0}]


def test_bytes_of_a_result_are_those_of_each_receiver() -> None:
    half = server()
    (group,) = half.groups
    assert half.bytes_of(group, NAMES) == 0
    half.remember(group, {"x": torch.ones(3), "y": torch.ones(2, dtype=torch.float64)})
    assert [half.bytes_of(group, names) for names in ((), ("b",), NAMES)] == [0, 28, 84]  # 3 * 4 + 2 * 8 each
    half.remember(group, PerParticipant({"a": {"x": torch.ones(5)}}))
    assert [half.bytes_of(group, names) for names in (("a",), NAMES)] == [20, 76]  # 20 + 2 * 28
