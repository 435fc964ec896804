"""Who can average what with whom: participants grouped by the keys and shapes that they have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from hetfed_lightning.aggregation import State
from hetfed_lightning.metrics import payload_bytes

FEW = 20
"""Up to this many participants are listed by name, each with a line of its own."""

SEPARATOR = "|"
"""Between the names of a group's members in a checkpoint."""


@dataclass(frozen=True)
class SharingGroup:
    """Participants that average the same tensors.

    Attributes:
        members: Their names, at least two.
        keys: Keys of ``state_dict`` that all of them share in one shape and dtype.
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
        """Whether a participant of that name is a member."""
        return name in self._names


def sharing_groups(states: Mapping[str, State]) -> list[SharingGroup]:
    """Groups of two or more participants that share keys of equal shape and dtype.

    Args:
        states: What each participant would share, by name.

    Returns:
        Groups in the order of their first key; a participant may be in several, with different keys.
    """
    layouts: dict[tuple[str, tuple[int, ...], str], list[str]] = defaultdict(list)
    for name, state in states.items():
        for key, tensor in state.items():
            layouts[key, tuple(tensor.shape), str(tensor.dtype)].append(name)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for (key, _, _), members in layouts.items():
        if len(members) > 1:
            groups[tuple(members)].append(key)
    return [SharingGroup(members, tuple(keys)) for members, keys in groups.items()]


def sharing_report(
    states: Mapping[str, State], personal: Mapping[str, Mapping[str, Tensor]], groups: Sequence[SharingGroup]
) -> str:
    """Who shares what with whom and what stays at home, as lines of text.

    Args:
        states: What each participant would share.
        personal: The rest of each participant's state.
        groups: As :func:`sharing_groups` found them.
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
        kept = f"{_tensors(list(personal[name]))} stay personal, {readable_bytes(payload_bytes(personal[name]))}"
        of_participants[kept + apart * f"|{name}"].append(name)
    # A line for each, or, of many, one for all of whom the same is true.
    lines += [f"  {listed(names)}: {text.split('|')[0]}" for text, names in of_participants.items()]
    return "\n".join(lines)


def listed(names: Sequence[str]) -> str:
    """Names with commas between them; of more than :data:`FEW` the first ones and how many there are."""
    if len(names) <= FEW:
        return ", ".join(names)
    return f"{', '.join(names[:3])}, ... ({len(names):,} participants)"


def split_layers(states: Mapping[str, State], groups: Sequence[SharingGroup]) -> list[str]:
    """Layers of which a group averages one tensor and not another, as lines of text.

    Networks of different widths agree in the bias of a last layer by chance; its average, without the weights that it
    belongs to, is of no use to anyone.

    Args:
        states: What each participant would share.
        groups: As :func:`sharing_groups` found them.
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
    same_key = [other for other, state in states.items() if other != name and any(key in state for key in keys)]
    return f"other shapes at {listed(same_key)}" if same_key else "no other participant has these keys"


def _tensors(keys: Sequence[str]) -> str:
    if len(keys) <= 3:
        return ", ".join(keys) or "no tensors"
    modules = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in keys))
    return f"{', '.join(modules[:3])}{', ...' if len(modules) > 3 else ''} ({len(keys)} tensors)"


def readable_bytes(count: float) -> str:
    """``count`` bytes in the unit that reads best."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
