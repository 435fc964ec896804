"""A group in Python: names, order, members of their own, what its copies have in common and what they do not."""

from typing import Any

import pytest
import torch
from torch import nn

from hetfed_lightning import BackboneAveraging, Federation, Participant, ParticipantGroup
from hetfed_lightning.data import DataError
from tests.federations import equal, fit, sgd, state_of, tiny_data, tiny_participant


def test_names_are_numbered_and_the_order_is_kept() -> None:
    federation = Federation(
        {"x": tiny_participant(), "clinic": ParticipantGroup(10, tiny_participant()), "z": tiny_participant()}
    )
    assert list(federation.participants) == ["x", *(f"clinic_{i:02d}" for i in range(10)), "z"]
    assert [federation[name].name for name in ("clinic_00", "clinic_09")] == ["clinic_00", "clinic_09"]


@pytest.mark.parametrize(("count", "last"), [(1, "s_0"), (9, "s_8"), (100, "s_099")])
def test_numbers_have_as_many_digits_as_the_count(count: int, last: str) -> None:
    assert list(Federation({"s": ParticipantGroup(count, tiny_participant())}).participants)[-1] == last


def test_copies_begin_alike_and_are_their_own() -> None:
    original = tiny_participant(optimizer=sgd(0.5), local_epochs=3)
    federation = Federation({"s": ParticipantGroup(3, original)})
    one, other = federation["s_0"], federation["s_1"]
    assert equal(state_of(one), state_of(original))
    assert one.optimizer_factory is other.optimizer_factory is original.optimizer_factory
    assert one.local_epochs == 3
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
    assert one.get_parameter("head.weight").data_ptr() != other.get_parameter("head.weight").data_ptr()
    assert original.name is None  # what is copied is no member
    assert federation["s_0"].host is federation


def test_one_group_makes_two_federations() -> None:
    group = ParticipantGroup(2, tiny_participant())
    one, other = Federation({"s": group}), Federation({"s": group})
    fit(one, tiny_data(("s_0", "s_1"), evaluated=False), 1, BackboneAveraging())
    assert equal(state_of(other["s_0"]), state_of(group.participant))
    assert not equal(state_of(one["s_0"]), state_of(group.participant))


def test_a_member_of_its_own_takes_the_place() -> None:
    own = tiny_participant(seed=7)
    federation = Federation({"s_1": own, "s": ParticipantGroup(3, tiny_participant())})
    assert list(federation.participants) == ["s_0", "s_1", "s_2"]
    assert federation["s_1"] is own


@pytest.mark.parametrize(("name", "words"), [("s_1", "did you mean 's_01'"), ("s_10", "'s_00' to 's_09'")])
def test_a_name_that_looks_like_a_members_is_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Federation({"s": ParticipantGroup(10, tiny_participant()), name: tiny_participant()})


def test_a_name_with_a_number_that_belongs_to_no_group_is_a_name() -> None:
    federation = Federation({"s": ParticipantGroup(2, tiny_participant()), "ward_7": tiny_participant()})
    assert list(federation.participants) == ["s_0", "s_1", "ward_7"]


@pytest.mark.parametrize("count", [0, -1, True, 2.0])
def test_a_count_that_is_none(count: Any) -> None:
    with pytest.raises(ValueError, match="count: expected an integer of at least 1"):
        ParticipantGroup(count, tiny_participant())


def test_a_group_of_something_else() -> None:
    with pytest.raises(TypeError, match="expected a Participant to copy, got Linear"):
        ParticipantGroup(2, nn.Linear(2, 2))  # type: ignore[arg-type]


def test_a_groups_name_stands_for_its_members_in_settings_by_name() -> None:
    federation = Federation({"s": ParticipantGroup(2, tiny_participant()), "a": tiny_participant()})
    data = tiny_data(("s_0", "s_1", "a"), evaluated=False, batch_size={"s": 3, "s_1": 5, "a": 7})
    assert [data.source(name).batch_size for name in ("s_0", "s_1", "a")] == [3, 5, 7]
    fit(federation, data, 1, BackboneAveraging(weighting={"s": 1.0, "a": 0.0}))
    with pytest.raises(ValueError, match="no weight for participant 's_0'"):
        fit(federation, data, 1, BackboneAveraging(weighting={"a": 1.0}))
    with pytest.raises(DataError, match="no entry for participant 's_0'"):
        tiny_data(("s_0",), evaluated=False, batch_size={"a": 7}).source("s_0")


def test_missing_data_of_a_member_is_refused() -> None:
    federation = Federation({"s": ParticipantGroup(2, tiny_participant())})
    with pytest.raises(ValueError, match="Participant 's_1' has no training set"):
        fit(federation, tiny_data(("s_0",), evaluated=False))


def test_copies_of_a_subclass_and_of_tied_and_frozen_weights() -> None:
    class Own(Participant):
        pass

    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    first.bias.requires_grad_(False)
    before, backbone = first.bias.clone(), nn.Sequential(first, second)
    federation = Federation({"s": ParticipantGroup(2, Own(backbone, nn.Linear(4, 3), optimizer=sgd()))})
    one = federation["s_1"]
    assert type(one) is Own
    assert one.get_parameter("backbone.1.weight") is one.get_parameter("backbone.0.weight")
    assert not one.get_parameter("backbone.0.bias").requires_grad
    fit(federation, tiny_data(("s_0", "s_1"), evaluated=False), 2, BackboneAveraging())
    assert one.get_parameter("backbone.1.weight") is one.get_parameter("backbone.0.weight")
    assert torch.equal(one.get_parameter("backbone.0.bias"), before)
