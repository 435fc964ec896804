"""Queries of seated members: states, outputs and evaluations, computed for all members of a fleet at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hetfed_lightning.batches import split_batch
from hetfed_lightning.data.blocks import bytes_of
from hetfed_lightning.fleets.batched_evaluation import batched_evaluation
from hetfed_lightning.fleets.fleet import Fleet
from hetfed_lightning.fleets.validation_lookahead import ValidationLookahead
from hetfed_lightning.participants.batch_result import Evaluated

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView


class MemberQueries:
    """The fleets of a round by kind, and the fleet of each seated participant.

    Attributes:
        lookahead: Evaluations of members' own validation sets, computed ahead.
        has_bystanders: True if any code of the user's runs in the round.
        is_watchful: True if such code may run between local steps.
        may_have_changed: True if such code may have run since the members were last compared with their snapshots.
        asks_methods: True if a method answers for members in evaluation, each of which is then evaluated by itself.
    """

    def __init__(self) -> None:
        self._fleets: dict[str, Fleet] = {}
        self._seats: dict[str, str] = {}
        self.lookahead = ValidationLookahead()
        self.has_bystanders = self.is_watchful = self.may_have_changed = self.asks_methods = False

    def disband(self) -> None:
        """Give every participant memory of its own again."""
        for fleet in self._fleets.values():
            fleet.dissolve()
        self._fleets, self._seats = {}, {}
        self.lookahead.close()

    def open_validation(self, federation: FederationView) -> None:
        """Find members that are validated on their own sets together, as Lightning begins its walk through the sets."""
        self.may_have_changed = True  # A callback may change something as a validation begins.
        if self.asks_methods:
            return
        seated = ((fleet, here) for fleet, here in self._seated(federation.measured_here()) if fleet.engine is not None)
        self.lookahead.open(federation, seated)

    def _seated(self, names: Iterable[str]) -> Iterator[tuple[Fleet, list[str]]]:
        """Fleets in which two or more of ``names`` are seated, each with those names."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in names:
            kind = self._seats.get(name)
            if kind in self._fleets and self._fleets[kind].is_seated(name):
                found[kind].append(name)
        for kind, here in found.items():
            if len(here) > 1:
                yield self._fleets[kind], here

    def views(
        self, federation: FederationView, names: Sequence[str], keys: Sequence[str] | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """Tensors of each participant, as views by name and key, of the parameters' shapes.

        Args:
            federation: Federation of the participants.
            names: Participants, whose order is kept.
            keys: Keys of ``state_dict``; None for all.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for fleet, here in self._seated(names):
            found |= fleet.views(here, keys) or {}
        return {name: found[name] if name in found else federation[name].view_of(keys) for name in names}

    def load(self, federation: FederationView, names: Iterable[str], state: Mapping[str, Tensor]) -> None:
        """Copy one state into several participants.

        Args:
            federation: Federation of the participants.
            names: Participants.
            state: Tensors of the parameters' shapes, by key.
        """
        left = dict.fromkeys(names)
        for fleet, here in self._seated(left):
            if all(fleet.layout.get(key) == tensor.shape for key, tensor in state.items()):
                fleet.load(here, state)
                for name in here:
                    del left[name]
        for name in left:
            federation[name].load_state_of(state)

    def learners(self, names: Iterable[str]) -> list[Fleet]:
        """Fleets in which two or more of ``names`` can learn together; those are seated, all other members are not.

        Args:
            names: Participants that learn at the end of a round.
        """
        found = []
        for fleet, here in list(self._seated(names)):
            if fleet.engine is not None and not fleet.learns_alone:
                changed = fleet.changes()
                learning = [one for one in fleet.members if one.name in here and one.name not in changed]
                if len(learning) < 2:
                    continue
                if changed:
                    fleet.dissolve()
                fleet.enlist(learning)
                fleet.seat()
                found.append(fleet)
        return found

    def outputs(self, names: Sequence[str], inputs: Any) -> dict[str, Tensor]:
        """Outputs on common raw inputs of seated participants without a transform, computed at once.

        Args:
            names: Participants.
            inputs: Raw inputs, shape ``(B, ...)``.

        Returns:
            Outputs, shape ``(B, C)`` each, by name.
        """
        found: dict[str, Tensor] = {}
        for _, part, outputs in self._outputs(names, inputs):
            found |= zip(part, outputs, strict=True)
        return found

    def evaluated(self, names: Sequence[str], batch: Any) -> dict[str, Evaluated]:
        """Evaluations of seated participants on a common batch, by name.

        Args:
            names: Participants.
            batch: Raw inputs, shape ``(B, ...)``, and targets, shape ``(B, ...)``.
        """
        inputs, targets = split_batch(batch)
        found: dict[str, Evaluated] = {}
        if isinstance(targets, Tensor) and not self.asks_methods:
            for fleet, part, outputs in self._outputs(names, inputs):
                common = targets.expand(len(part), *targets.shape)
                sizes = [len(targets)] * len(part)
                found |= zip(part, batched_evaluation(fleet.task, outputs, common, None, sizes), strict=True)
        return found

    def _outputs(self, names: Sequence[str], inputs: Any) -> Iterator[tuple[Fleet, list[str], Tensor]]:
        """Fleets, members that are computed at once, and their outputs, shape ``(K, B, C)``."""
        if bytes_of(inputs) is None:
            return
        for fleet, here in self._seated(name for name in names if name in self._seats):
            if fleet.engine is None or fleet.transforms:
                continue
            alike = [name for name in here if fleet.is_as_found(name)] if self.has_bystanders else here
            for part in fleet.portions(alike, inputs):
                outputs = fleet.outputs(part, inputs, fleet.engine, common=True)
                if outputs is not None:
                    yield fleet, part, outputs
