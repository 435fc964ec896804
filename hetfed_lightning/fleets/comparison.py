"""Comparison of seated members with their state when they were seated, fast enough to be made before every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import attrgetter, call, is_, itemgetter
from typing import Any

from torch import Tensor

from hetfed_lightning.fleets.compatibility import kind_and_settings_of
from hetfed_lightning.fleets.member import Member
from hetfed_lightning.fleets.optimizers import kind_of
from hetfed_lightning.fleets.snapshot import OWN
from hetfed_lightning.participants.torch_hooks import registered_hooks

_trained: Callable[[Any], bool] = attrgetter("requires_grad")


class Seat:
    """Memory addresses of a seated member's weights, and the state of its optimizer, as they were when it was seated.

    Args:
        member: Member whose weights and optimizer state are views of a stack.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.parameters = list(member.parameters.values())
        self.places = list(map(Tensor.data_ptr, self.parameters))
        self.group = member.optimizer.param_groups[0]
        self.held = list(self.group["params"])
        self.step = vars(member.optimizer).get("step")
        self.state = member.optimizer.state
        self.stated = {parameter: dict(state) for parameter, state in self.state.items()}

    @property
    def is_taken(self) -> bool:
        """True if all weights lie at the addresses where they were seated."""
        return list(map(Tensor.data_ptr, self.parameters)) == self.places

    def change(self) -> str | None:
        """First change since the member was seated, settings aside, as a clause that follows "since"; or None."""
        if not self.is_taken:
            moved = zip(self.member.parameters, self.parameters, self.places, strict=True)
            key = next(key for key, parameter, place in moved if parameter.data_ptr() != place)
            return f"the data of {key} has been replaced"
        optimizer, own = self.member.optimizer, vars(self.member.optimizer)
        if self.member.local.optimizers != [optimizer]:
            return "its optimizer has been replaced"
        if len(own["param_groups"]) != 1 or own["param_groups"][0] is not self.group or not self._steps_the_same:
            return "its optimizer has other parameter groups"
        if own.get("step") is not self.step or own["_optimizer_step_pre_hooks"] or own["_optimizer_step_post_hooks"]:
            return "its optimizer has hooks or a step of its own"
        return None if own["state"] is self.state and self._has_its_state else "its optimizer has another state"

    @property
    def _steps_the_same(self) -> bool:
        held = self.group["params"]
        return len(held) == len(self.held) and all(map(is_, held, self.held))

    @property
    def _has_its_state(self) -> bool:
        try:
            return self.state == self.stated
        except RuntimeError:  # Comparing other tensors gives a tensor without a truth value.
            return False

    def obstacle(self, known: dict[str, Any]) -> str | None:
        """Changed settings of the optimizer that the stack cannot take over, as a clause that follows "since"; or None.

        Args:
            known: Settings of the optimizer's parameter group when they were last read.
        """
        group, optimizer = self.group, self.member.optimizer
        if not _differ(group, known):
            return None
        kind = kind_of(optimizer)
        follows = known.keys() == group.keys() and kind is not None and kind.obstacle(group) is None
        if follows and kind_and_settings_of(optimizer, group) == kind_and_settings_of(optimizer, known):
            return None
        changed = [key for key in sorted(group.keys() | known.keys()) if _differ(group.get(key), known.get(key))]
        return f"{', '.join(changed)} of its optimizer has been changed"


class Comparison:
    """Snapshot of all members of a fleet, as pairs of a question and its answer, asked by functions written in C.

    The questions of one member follow each other, since its own values lie together in memory.

    Hooks are noticed by the number that was ever registered in this process: looking at all places where one may be
    would cost as much as all else. A module whose class alone was exchanged is found when a round opens.

    Args:
        seats: Seats of the members.
        registrations: Number of hooks registered when the members were last known to have none.
    """

    def __init__(self, seats: Sequence[Seat], registrations: int) -> None:
        self._registrations = registrations
        questions = list(chain.from_iterable(map(_questions, seats)))
        self._functions = [function for function, _, _ in questions]
        self._arguments = [argument for _, argument, _ in questions]
        self._answers = [answer for _, _, answer in questions]

    def holds(self) -> bool:
        """True if everything is as it was, settings of optimizers aside; False also if that cannot be told."""
        if registered_hooks() != self._registrations:
            return False
        try:
            return list(map(call, self._functions, self._arguments)) == self._answers
        except Exception:  # noqa: BLE001 - what cannot be compared, such as an array, has been replaced
            return False


def _questions(seat: Seat) -> Iterator[tuple[Callable[[Any], Any], Any, Any]]:
    """Triples of a function of one argument, the argument, and the result that it has given."""
    found, member, optimizer = seat.member.found, seat.member, seat.member.optimizer
    own = vars(optimizer)
    yield itemgetter("state", "param_groups"), own, (seat.state, own["param_groups"])
    yield own.get, "step", seat.step
    yield [optimizer].__eq__, member.local.optimizers, True
    yield [seat.group].__eq__, own["param_groups"], True
    yield itemgetter("params"), seat.group, seat.held
    yield seat.stated.__eq__, seat.state, True
    yield from ((Tensor.data_ptr, *both) for both in zip(seat.parameters, seat.places, strict=True))
    if found is None:
        return
    for place, (plain, values) in enumerate(zip(found.plain, found.values, strict=True)):
        if place < len(found.states):
            yield len, plain, found.sizes[place]
            yield (
                itemgetter("training", *found.keys[place]),
                plain,
                (found.modes[place], *values) if values else found.modes[place],
            )
        else:
            yield found.getters[place], plain, values
    yield from ((was.__eq__, now, True) for now, was in zip(found.contents, found.contained, strict=True) if was)
    yield from ((_trained, *both) for both in zip(found.parameters, found.trained, strict=True))
    participant = vars(found.participant)
    yield itemgetter(*found.settings), participant, tuple(found.settings.values())
    yield participant.keys().isdisjoint, OWN, True
    if found.has_still_tensors:
        yield call, found.stands_still, True


def _differ(one: Any, other: Any) -> bool:
    try:
        return one is not other and not bool(one == other)
    except RuntimeError:
        return True
