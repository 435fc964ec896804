"""Groups of participants that can average, by the keys and shapes that they have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

from hetfed_lightning.aggregation import State
from hetfed_lightning.logs.text import FEW, listed, readable_bytes
from hetfed_lightning.metrics import payload_bytes
from hetfed_lightning.participants.inseparable import SHAPE, lies_on, root_of

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant

Foundations: TypeAlias = Mapping[str, Mapping[str, str]]
"""Digests of the frozen weights that each participant's shared ones lie on, by name and key."""

SEPARATOR = "|"
"""Separator of members' names in a group's key in a checkpoint."""

Ground: TypeAlias = tuple[tuple[str, str], ...]
"""Keys of frozen weights with their digests."""


@dataclass(frozen=True)
class SharingGroup:
    """Participants that average the same tensors.

    Attributes:
        members: Names of the participants, at least two.
        keys: Keys of ``state_dict`` that all of them share in equal shape and dtype.
    """

    members: tuple[str, ...]
    keys: tuple[str, ...]

    @cached_property
    def name(self) -> str:
        """Key of the group in a checkpoint."""
        return SEPARATOR.join(self.members)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.members)

    def __contains__(self, name: object) -> bool:
        """True if a participant of that name is a member."""
        return name in self._names


def personal_state(participant: Participant, shared: State) -> dict[str, Tensor]:
    """Views of a participant's personal tensors by key: neither shared nor tied to a shared one.

    Args:
        participant: Participant that owns them.
        shared: Its shared state, by key.
    """
    state = participant.state_dict(keep_vars=True)
    held = {id(state[key]) for key in shared}
    return {key: tensor.detach() for key, tensor in state.items() if id(tensor) not in held}


def sharing_groups(states: Mapping[str, State], foundations: Foundations | None = None) -> list[SharingGroup]:
    """Groups of two or more participants that share keys of equal shape and dtype, over equal frozen weights.

    Args:
        states: Shared state of each participant, by name.
        foundations: Digests of the frozen weights below shared ones, by name and key.

    Returns:
        Groups in the order of their first key; a participant may be in several, with different keys.
    """
    layouts: dict[tuple[str, object, object], list[str]] = defaultdict(list)
    for name, state in states.items():
        grounds = _grounds(state, (foundations or {}).get(name, {}))
        for key, tensor in state.items():
            layouts[key, _layout(tensor), grounds[root_of(key)]].append(name)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for (key, _, _), members in layouts.items():
        if len(members) > 1:
            groups[tuple(members)].append(key)
    return [SharingGroup(members, tuple(keys)) for members, keys in groups.items()]


def _grounds(state: State, foundation: Mapping[str, str]) -> dict[str, Ground]:
    """What the tensors of each part of a participant lie on, in an order that does not depend on the participant."""
    ordered = sorted(item for item in foundation.items() if not item[1].startswith(SHAPE))
    roots = {root_of(key) for key in state}
    return {root: tuple(item for item in ordered if lies_on(root, item[0])) for root in roots}


def split_foundations(states: Mapping[str, State], foundations: Foundations) -> list[str]:
    """Lines of text about participants whose shared tensors agree but lie over different frozen weights.

    Args:
        states: Shared state of each participant, by name.
        foundations: Digests of the frozen weights below shared ones, by name and key.
    """
    found: dict[tuple[str, object], dict[Ground, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, state in states.items():
        grounds = _grounds(state, foundations.get(name, {}))
        for key, tensor in state.items():
            found[key, _layout(tensor)][grounds[root_of(key)]].append(name)
    lines: dict[tuple[object, ...], str] = {}
    for (key, _), apart in found.items():
        if len(apart) > 1:
            (one, others), (another, more), *_ = apart.items()
            frozen = _first_difference(dict(one), dict(another))
            lines.setdefault(
                (frozen, tuple(map(tuple, apart.values()))),
                f"{listed(others)} and {listed(more)} are not averaged with one another from {key} on, since what they "
                f"share lies over frozen weights that differ, such as {frozen}. Load the same pre-trained weights for "
                "all, or name the frozen ones in Participant(shared=...) too. ",
            )
    return list(lines.values())


def uneven_foundations(groups: Sequence[SharingGroup], foundations: Foundations) -> list[str]:
    """Lines of text about groups that average above shared frozen weights of different shapes.

    Args:
        groups: Groups from :func:`sharing_groups`.
        foundations: Digests of the frozen weights below shared ones, by name and key.
    """
    lines = []
    for group in groups:
        key, shapes = group.keys[0], []
        for name in group.members:
            own = foundations.get(name, {})
            shapes.append({one: told for one, told in own.items() if told.startswith(SHAPE) and lies_on(key, one)})
        other = next((name for name, own in zip(group.members, shapes, strict=True) if own != shapes[0]), None)
        if other is not None:
            frozen = _first_difference(shapes[0], shapes[group.members.index(other)])
            lines.append(
                f"{group.members[0]} and {other} average {key} above frozen weights whose shapes differ, such as "
                f"{frozen}. If it was made for one of them, leave it out of Participant(shared=...)."
            )
    return lines


def _first_difference(one: Mapping[str, str], another: Mapping[str, str]) -> str:
    return next(key for key in [*one, *another] if one.get(key) != another.get(key))


def tied_lines(tied: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Lines of text about tensors that are averaged because they are tied to a shared one.

    Args:
        tied: Shared key by tied key, for each participant's name.
    """
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, own in tied.items():
        for pair in own.items():
            names[pair].append(name)
    return [
        f"{listed(members)}: {key} is one tensor with {shared}, which is shared, and is averaged with it. Where it is "
        "to stay personal, give it a tensor of its own."
        for (key, shared), members in names.items()
    ]


def sharing_report(
    states: Mapping[str, State],
    personal: Mapping[str, Mapping[str, Tensor]],
    groups: Sequence[SharingGroup],
    tied: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Report of shared and personal tensors of all participants, as lines of text.

    Args:
        states: Shared state of each participant, by name.
        personal: Personal state of each participant, by name.
        groups: Groups from :func:`sharing_groups`.
        tied: Shared key by tied key, for each participant's name.
    """
    lines = ["What is averaged, and with whom:"]
    of_participants: dict[str, list[str]] = defaultdict(list)
    apart = len(states) <= FEW
    for group in groups:
        state = states[group.members[0]]
        size = payload_bytes([state[key] for key in group.keys])
        lines.append(
            f"  {listed(group.members)}: {_tensors(group.keys)}, {readable_bytes(size)} each way per participant"
        )
    for name, state in states.items():
        grouped = {key for group in groups if name in group for key in group.keys}
        alone = [key for key in state if key not in grouped]
        if alone:
            why = _why_alone(name, alone, states)
            of_participants[f"{_tensors(alone)} are averaged with nobody ({why})" + apart * f"|{name}"].append(name)
        for key, shared in (tied or {}).get(name, {}).items():
            of_participants[f"{key} is one tensor with {shared}, shared like it" + apart * f"|{name}"].append(name)
        kept = f"{_tensors(list(personal[name]))} stay personal, {readable_bytes(payload_bytes(personal[name]))}"
        of_participants[kept + apart * f"|{name}"].append(name)
    # A line for each, or, of many, one for all of whom the same is true.
    lines += [f"  {listed(names)}: {text.split('|')[0]}" for text, names in of_participants.items()]
    return "\n".join(lines)


def split_layers(states: Mapping[str, State], groups: Sequence[SharingGroup]) -> list[str]:
    """Lines of text about layers of which a group averages one tensor and not another.

    Networks of different widths may agree in the bias of a last layer by chance. Its average is useless without the
    weights that it belongs to.

    Args:
        states: Shared state of each participant, by name.
        groups: Groups from :func:`sharing_groups`.
    """
    lines = []
    for group in groups:
        first = states[group.members[0]]
        for layer, key in {key.rpartition(".")[0]: key for key in group.keys}.items():
            siblings = [other for other in first if layer and other.rpartition(".")[0] == layer]
            shapes = {other: {_layout(states[name].get(other)) for name in group.members} for other in siblings}
            apart = [other for other in siblings if len(shapes[other]) > 1]
            if apart:
                lines.append(
                    f"{listed(group.members)} average {key}, but not {apart[0]} of the same layer, whose shapes "
                    "differ. If that is chance, leave the layer out of Participant(shared=...)."
                )
    return lines


def _layout(tensor: Tensor | None) -> tuple[object, ...]:
    return () if tensor is None else (tuple(tensor.shape), tensor.dtype)


def _why_alone(name: str, keys: Sequence[str], states: Mapping[str, State]) -> str:
    fits = [other for other, state in states.items() if other != name and _fit(keys, states[name], state)]
    if fits:
        return f"over other frozen weights than {listed(fits)}"
    same_key = [other for other, state in states.items() if other != name and any(key in state for key in keys)]
    return f"other shapes at {listed(same_key)}" if same_key else "no other participant has these keys"


def _fit(keys: Sequence[str], own: State, other: State) -> bool:
    return all(key in other and _layout(own[key]) == _layout(other[key]) for key in keys)


def _tensors(keys: Sequence[str]) -> str:
    if len(keys) <= 3:
        return ", ".join(keys) or "no tensors"
    modules = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in keys))
    return f"{', '.join(modules[:3])}{', ...' if len(modules) > 3 else ''} ({len(keys)} tensors)"
