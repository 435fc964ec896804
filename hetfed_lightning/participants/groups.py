"""Groups of participants made from one: a hundred clinics in four lines, ten thousand in the memory of their heads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from torch import nn

from hetfed_lightning.participants.layer_checks import check_initialised
from hetfed_lightning.participants.participant import Participant
from hetfed_lightning.shared_storage.copy_on_write import Loan

_NUMBERED = re.compile(r"(?P<group>.+)_(?P<number>\d+)")


class ParticipantGroup:
    """``count`` copies of one participant, named by the group's name and a number: ``clinic_000``, ``clinic_001``, ...

    All copies begin with the weights of ``participant``, heads included. For different initial weights pass
    participants one by one. Until a copy trains, its shared tensors are one storage for the whole group, so a group
    takes the memory of its heads: call :meth:`Participant.materialise` before you write to a copy's backbone yourself.

    A participant with the name of a member replaces that member: ``{"clinic": ParticipantGroup(100, plain),
    "clinic_007": other}``.

    Args:
        count: Number of copies, at least 1.
        participant: Participant to copy; it is no member itself and stays unchanged.

    Raises:
        TypeError: If ``participant`` is not a :class:`Participant`.
        ValueError: If ``count`` is not an integer of at least 1.
    """

    def __init__(self, count: int, participant: Participant) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"count: expected an integer of at least 1, got {count!r}.")
        if not isinstance(participant, Participant):
            raise TypeError(f"participant: expected a Participant to copy, got {type(participant).__name__}.")
        self.count = count
        self.participant = participant

    def copies(self) -> Iterator[Participant]:
        """New copies of the participant, one after another, ``count`` in all.

        Raises:
            ValueError: If the participant has an uninitialised lazy layer, which cannot be copied.
        """
        original = self.participant
        check_initialised(original, "ParticipantGroup(participant=...)")
        own = original.state_dict(keep_vars=True)
        keys = [key for key in original.shared_keys() if type(own[key]) is nn.Parameter]
        loan = Loan(original.state_of(keys))
        # Functions that make an optimizer are asked, never changed.
        kept = [original.optimizer_factory, original.lr_scheduler_factory]
        for _ in range(self.count):
            memo: dict[int, Any] = {id(one): one for one in kept}
            for key in keys:
                memo[id(own[key])] = nn.Parameter(loan.tensors[key], own[key].requires_grad)
            copy = deepcopy(original, memo)
            copy.borrow(loan)
            copy.detach()
            yield copy


def member_names(group: str, count: int) -> list[str]:
    """Names of a group's members: the group's name and numbers from 0, with as many digits as the last one needs.

    Args:
        group: Name of the group.
        count: Number of members, at least 1.
    """
    digits = len(str(count))
    return [f"{group}_{number:0{digits}d}" for number in range(count)]


def place_taken(name: str, groups: Mapping[str, int]) -> str | None:
    """Name of the group in which a participant replaces a member; None if the name is no member's.

    Args:
        name: Name of a single participant.
        groups: Number of members by group.

    Raises:
        ValueError: If the name has the form of a member's and is none.
    """
    match = _NUMBERED.fullmatch(name)
    if match is None or match["group"] not in groups:
        return None
    group, number, count = match["group"], int(match["number"]), groups[match["group"]]
    names = member_names(group, count)
    if number < count and names[number] == name:
        return group
    hint = f"; did you mean {names[number]!r}?" if number < count else "."
    raise ValueError(
        f"participants: {name!r} looks like a member of the group {group!r}, whose members are {names[0]!r} to "
        f"{names[-1]!r}{hint}"
    )


def expanded(participants: Any) -> Any:
    """Participants by name, each group replaced by its members.

    Args:
        participants: Participants and groups by name; anything else is returned unchanged.

    Raises:
        ValueError: If a name has the form of a group member's and is none.
    """
    if not isinstance(participants, Mapping):
        return participants
    counts = {name: one.count for name, one in participants.items() if isinstance(one, ParticipantGroup)}
    single = {name: one for name, one in participants.items() if name not in counts}
    taken = {name for name in single if isinstance(name, str) and place_taken(name, counts)}
    found: dict[Any, Any] = {}
    for name, one in participants.items():
        if isinstance(one, ParticipantGroup):
            members = member_names(name, one.count)
            found |= {member: single.get(member, copy) for member, copy in zip(members, one.copies(), strict=True)}
        elif name not in taken:
            found[name] = one
    return found
