"""One fleet: the members of a round, whose parameters are rows of one stack, and their common step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from hetfed_lightning.data.blocks import StackedBatch, bytes_of
from hetfed_lightning.fleets.comparison import Comparison, Seat
from hetfed_lightning.fleets.engine import Engine
from hetfed_lightning.fleets.log_text import listed, short_error
from hetfed_lightning.fleets.member import Member
from hetfed_lightning.fleets.network import Network, is_of_method, without_methods
from hetfed_lightning.fleets.optimizers import StackedOptimizer, StackedSGD, stacked_optimizer
from hetfed_lightning.fleets.parts import Trained, narrowed
from hetfed_lightning.fleets.public_engine import PublicEngine
from hetfed_lightning.fleets.shaping import LossShape, ShapedEngine
from hetfed_lightning.fleets.snapshot import still_tensors
from hetfed_lightning.fleets.stack import Stack, give_back, take_in
from hetfed_lightning.fleets.terms import FleetTerm, adding
from hetfed_lightning.fleets.tolerance import output_tolerance
from hetfed_lightning.local_training.local_optimization import count_together
from hetfed_lightning.logs.metric_store import tag
from hetfed_lightning.modes import evaluating
from hetfed_lightning.participants.participant import Participant
from hetfed_lightning.participants.torch_hooks import registered_hooks
from hetfed_lightning.shared_storage.malloc_trim import hand_back

log = logging.getLogger(__name__)

HANDED_BACK_BYTES = 16 * 2**20
"""Bytes of their own memory that members may leave unused before it is handed back to the system."""

ROOM: Mapping[str, int] = {"cpu": 4 * 2**20, "others": 64 * 2**20}
"""Bytes of inputs, or of a layer's outputs for them, that are evaluated at once, by kind of device.

On a CPU they should stay in its cache and in memory that was used before: evaluating 100 networks all at once takes
half as long again."""


class Fleet:
    """Participants of one architecture.

    A member is *seated* while its parameters and the state of its optimizer are views of the fleet's stack.

    Args:
        first: Member of that architecture.
        network: Network of the architecture, if it has been made.

    Attributes:
        loss_keys: Keys under which the members' training losses are logged, in the members' order.
        terms: Terms that callbacks add to the members' losses in this round.
        shapes: Shapes that callbacks give to the members' losses by example in this round.
        of_methods: Keys of the parameters in methods' modules.
        unused: Those of which each row's loss in this round is no function; None until it is known, and for all.
        on_public: Engines of methods' losses of public batches, by the method's title.
        learns_alone: True if its members learn on public data one after another, because a step of all has failed.
    """

    def __init__(self, first: Member, network: Network | None = None) -> None:
        self.network = Network(first.local.participant) if network is None else network
        # Copied, as the network is: later changes by its owner must not reach the other members.
        self.task = deepcopy(first.local.participant.task)
        self.compile_settings = first.local.participant.compile_settings
        self.layout = {key: parameter.shape for key, parameter in first.parameters.items()}
        self.everything = list(first.local.participant.state_dict(keep_vars=True))
        self.members: list[Member] = []
        self.places: dict[str, int] = {}
        self.loss_keys: tuple[str, ...] = ()
        self.engine: Engine | None = None
        self.stack: Stack | None = None
        self.optimizer: StackedOptimizer | None = None
        self._rows: list[list[Tensor]] = []
        self._seats: list[Seat] = []
        self._comparison: Comparison | None = None
        self._groups: list[dict[str, Any]] = []
        self._known: list[dict[str, Any]] = []
        self._registrations = 0
        self._reads_always = False
        self._still = still_tensors(self.network.roots, self.task)
        self.transforms = False
        self.terms: list[FleetTerm] = []
        self.shapes: list[LossShape] = []
        self.of_methods = frozenset(filter(is_of_method, self.layout))
        self.unused: list[frozenset[str]] | None = None
        self._shaped: ShapedEngine | None = None
        self.on_public: dict[str, PublicEngine] = {}
        self.learns_alone = False
        self._clips: Tensor | None = None
        self._clip_values: list[float | None] = []
        self._predicts: bool | None = None

    @property
    def label(self) -> str:
        """Name of the fleet in messages: its members and the classes of their modules."""
        members = [one.name for one in self.members]
        parts = f"{type(self.network.backbone).__name__} + {type(self.network.head).__name__}"
        return f"{len(members)} participants ({listed(members)}; {parts})"

    # Seating of members

    def enlist(self, members: Sequence[Member]) -> None:
        """Set the members that are to train together; they keep memory of their own until :meth:`seat`.

        Args:
            members: Members by descending number of batches, so that those with batches left are always the first rows.
        """
        if [one.name for one in members] != [one.name for one in self.members]:
            self.rise()
        self.members = list(members)
        self.places = {one.name: place for place, one in enumerate(members)}
        self.loss_keys = tuple(tag("train_loss", one.name) for one in members)
        self.transforms = any(one.transforms for one in members)
        self._registrations = registered_hooks()  # Participants with hooks join no fleet.
        for one in members:
            if one.found is not None:
                one.found.reference = self._still

    def seat(self) -> None:
        """Make the members' parameters and optimizer states views of the stack."""
        members, moved = self.members, 0
        if self.stack is None or self.stack.count < len(members):
            like = next(iter(members[0].parameters.values()))
            self.stack = Stack(self.layout, len(members), like.data)
            self._rows = [self.stack.row(place) for place in range(len(members))]
            self.optimizer = None
        optimizers = [one.optimizer for one in members]
        if self.optimizer is None:
            self.optimizer = stacked_optimizer(self.stack, optimizers)
        for place, one in enumerate(members):
            self.stack.clear(place)
            moved += take_in(one.parameters.values(), self._rows[place])
            if moved > HANDED_BACK_BYTES:
                moved = 0
                hand_back()
            self.optimizer.pull(place, optimizers[place])
            # Schedulers warn where they step before an optimizer whose own `step` was never called.
            optimizers[place]._opt_called = True  # type: ignore[attr-defined]
        self._seats, self._comparison = [Seat(one) for one in members], None
        self._groups = [one.group for one in self._seats]
        self.read_settings()

    def rise(self) -> None:
        """Give the members memory of their own again; the stack stays for the next members."""
        for one, row in zip(self.members, self._rows, strict=False):  # There are no rows before they sit.
            give_back(one.parameters.values(), row)
            StackedOptimizer.let_go(one.optimizer)
        self.members, self.places, self._seats, self._comparison = [], {}, [], None

    def dissolve(self) -> None:
        """Give the members memory of their own for good, and free the stack."""
        hand_back()
        self.rise()
        self.stack = self.optimizer = None
        self._rows = []
        hand_back()

    def read_settings(self) -> None:
        """Take over learning rates and other settings that schedulers may have changed."""
        if self.optimizer is None:
            return
        self.optimizer.read([one.optimizer for one in self.members])
        self._known = [group.copy() for group in self._groups]
        # A rate that is a tensor may be changed in place.
        self._reads_always = any(isinstance(value, Tensor) for group in self._known for value in group.values())
        clips = self._clip_values = self._found_clips()
        self._clips = None
        if any(clip is not None for clip in clips):
            bounds = [float("inf") if clip is None else clip for clip in clips]
            flat = self.optimizer.stack.flat
            self._clips = torch.tensor(bounds, dtype=flat.dtype, device=flat.device)[:, None]

    def _found_clips(self) -> list[float | None]:
        return [one.local.participant.gradient_clip_val for one in self.members]

    # Changes by callbacks

    def changes(self) -> dict[str, str]:
        """Changes of members since they were seated, by name, as clauses that follow "since".

        Other learning rates are taken over instead, as are all settings that members may have of their own.
        """
        found: dict[str, str] = {}
        if self._comparison is None:
            self._comparison = Comparison(self._seats, self._registrations)
        if not self._seats or not self._comparison.holds():
            changes = {one.name: one.change() for one in self.members}
            for seat in self._seats:
                changes[seat.member.name] = changes[seat.member.name] or seat.change()
            found = {name: change for name, change in changes.items() if change is not None}
            self._comparison = None
            self._registrations = registered_hooks()
        if self._seats and (self._reads_always or self._settings_differ()):
            for seat, known in zip(self._seats, self._known, strict=True):
                if (obstacle := seat.obstacle(known)) is not None:
                    found.setdefault(seat.member.name, obstacle)
            if not found:
                self.read_settings()
        return found

    def _settings_differ(self) -> bool:
        try:
            return self._groups != self._known or self._found_clips() != self._clip_values
        except RuntimeError:  # Tensors of several elements have no truth value.
            return True

    # The step

    def open_round(self, terms: Sequence[FleetTerm] = (), shapes: Sequence[LossShape] = ()) -> None:
        """Take over the terms and shapes of the local steps of a round.

        Args:
            terms: Terms that callbacks add to the members' losses.
            shapes: Shapes that callbacks give to the members' losses by example.
        """
        self.terms, self.shapes, self.unused = list(terms), list(shapes), None
        if self._shaped is not None and self.shapes:
            self._shaped.open_round(self.shapes)

    def local_step(
        self,
        batch: StackedBatch,
        engine: Engine,
        batch_idx: int,
        *,
        terms: Sequence[FleetTerm] | None = None,
        trained: Sequence[Trained] | None = None,
    ) -> Tensor:
        """Losses of the first K members before one local step of theirs, shape ``(K,)``; the batch has K members.

        Args:
            batch: One batch of each, in the order of the rows.
            engine: Engine of the fleet.
            batch_idx: Index of the step in the round.
            terms: Terms to add; None for all of the round.
            trained: Parameters that the step changes, of all K members; None for all.
        """
        terms = self.terms if terms is None else terms
        if self.of_methods:
            unused = [self.of_methods] * batch.count if self.unused is None else self.unused[: batch.count]
            if trained is not None or any(one != self.of_methods for one in unused):
                trained = narrowed(trained, unused, list(self.layout))
        return self.step(batch, self._shaped_over(engine), add=adding(terms, engine, batch_idx), trained=trained)

    def _shaped_over(self, engine: Engine) -> Engine:
        """The engine, with losses that callbacks shape if any do."""
        if not self.shapes:
            return engine
        if self._shaped is None or self._shaped.engine is not engine:
            device = self.seated()[0].flat.device
            self._shaped = ShapedEngine(engine, self.shapes, device, self.compile_settings)
        return self._shaped

    def step(
        self,
        batch: StackedBatch,
        engine: Engine,
        *,
        add: Callable[[Tensor], None] | None = None,
        optimizer: StackedOptimizer | None = None,
        trained: Sequence[Trained] | None = None,
    ) -> Tensor:
        """Losses of the first K members before one step of theirs, shape ``(K,)``; the batch has K members.

        Args:
            batch: One batch of each, in the order of the rows.
            engine: Engine that computes the gradients.
            add: Function that adds further gradients to those of the batch, shape ``(K, width)``.
            optimizer: Optimizer to step with, instead of the members' own.
            trained: Parameters that the step changes, of all K members; None for all but those of methods' modules.

        Returns:
            The losses, shape ``(K,)``, without the terms whose gradients ``add`` adds.
        """
        stack, own, _ = self.seated()
        optimizer = own if optimizer is None else optimizer
        count = batch.count
        parameters = stack.by_key(stack.flat[:count])
        folds = engine.folds_descent and add is None and self._clips is None and trained is None
        if folds and isinstance(optimizer, StackedSGD) and optimizer.is_plain:
            rates = optimizer.setting("lr", slice(0, count), stack.flat.dtype)[:, 0]
            return engine.descend(parameters, rates, batch)
        if trained is None and self.of_methods:
            trained = narrowed(None, [self.of_methods] * count, list(self.layout))
        gradients = stack.gradients[:count]
        losses = self._gradients(engine, parameters, gradients, batch)
        if add is not None:
            add(gradients)
        if self._clips is not None:
            for one in trained or ():
                if one.keys is not None:
                    for column in stack.columns(self.layout.keys() - set(one.keys)):
                        gradients[one.rows, column] = 0  # The norm is that of what is trained.
            # As torch.nn.utils.clip_grad_norm_ does, with its 1e-6.
            norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
            gradients.mul_((self._clips[:count] / (norms + 1e-6)).clamp(max=1.0))
        optimizer.step(count, gradients, trained)
        return losses

    def _gradients(
        self, engine: Engine, parameters: Mapping[str, Tensor], gradients: Tensor, batch: StackedBatch
    ) -> Tensor:
        """Losses, shape ``(K,)``; methods' modules have a part in those alone that methods shape."""
        stack, _, _ = self.seated()
        places = stack.by_key(gradients)
        if not self.of_methods or isinstance(engine, ShapedEngine):
            return engine.gradients(parameters, places, batch)
        for column in stack.columns(self.of_methods):
            gradients[:, column] = 0
        return engine.gradients(without_methods(parameters), without_methods(places), batch)

    def count_step(self, count: int) -> None:
        """Count a step of the first members, call what follows it, and step their schedulers that count steps.

        Args:
            count: Number of members that have stepped.
        """
        for one in self.members[:count] if self.members[0].local.hooks.has_followers else ():
            one.local.hooks.after_step(one.local.participant)
        if count_together(one.local for one in self.members[:count]):
            self.read_settings()

    def is_seated(self, name: str) -> bool:
        """True if all of a member's parameters are still views of the stack; a copy-on-write loan may replace them."""
        place = self.places.get(name)
        if place is None or place >= len(self._seats) or not self._seats[place].is_taken:
            return False
        found = self.members[place].found
        return found is None or found.holds_its_parameters

    def is_as_found(self, name: str) -> bool:
        """True if the fleet's network gives the outputs of the member's own network in evaluation mode."""
        return self.members[self.places[name]].change("evaluation") is None

    def weights_of(self, name: str) -> tuple[tuple[int, int], ...]:
        """Address and version of each of a member's parameters; the fleet's own steps do not raise the version."""
        own = self.members[self.places[name]].parameters.values()
        return tuple((parameter.data_ptr(), parameter._version) for parameter in own)

    def views(self, names: Sequence[str], keys: Sequence[str] | None = None) -> dict[str, dict[str, Tensor]] | None:
        """States of members, as views by name and key, of the parameters' shapes; made for all members at once.

        Args:
            names: Members.
            keys: Keys of ``state_dict``; None for all.

        Returns:
            The views, or None if a key is not in the stack.
        """
        stack, _, count = self.seated()
        if not set(self.everything if keys is None else keys) <= set(self.layout):
            return None
        columns = {key: stacked.unbind() for key, stacked in stack.by_key(stack.flat[:count]).items()}
        wanted = self.everything if keys is None else keys
        return {name: {key: columns[key][self.places[name]] for key in wanted} for name in names}

    @torch.no_grad()
    def load(self, names: Sequence[str], state: Mapping[str, Tensor]) -> None:
        """Copy one state into the rows of members.

        Args:
            names: Members.
            state: Tensors of the parameters' shapes, by key; every key is in the stack.
        """
        stack, _, count = self.seated()
        places = [self.places[name] for name in names]
        stacked = stack.by_key(stack.flat[:count])
        for key, tensor in state.items():
            if len(places) == count:
                stacked[key].copy_(tensor.expand_as(stacked[key]))
            else:
                stacked[key][places] = tensor.to(stacked[key])

    def portions(self, names: Sequence[str], inputs: Any) -> list[list[str]]:
        """Members in the order of their rows, in parts of two or more that are computed at once.

        Args:
            names: Members; one that is left over is in no part.
            inputs: Inputs of one of them, shape ``(B, ...)``.
        """
        most, ordered = self.room_for(inputs), sorted(names, key=self.places.__getitem__)
        parts = [ordered[start : start + most] for start in range(0, len(ordered), most)]
        return [part for part in parts if len(part) > 1]

    def room_for(self, inputs: Any) -> int:
        """Number of members that can be evaluated at once on inputs like these, shape ``(B, ...)``; at least 2."""
        flat = self.seated()[0].flat
        first = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
        widest = max(shape[0] for shape in self.layout.values() if shape) * flat.element_size() * first.shape[0]
        room = ROOM.get(flat.device.type, ROOM["others"])
        return max(2, room // max(1, bytes_of(inputs) or 0, widest))

    def outputs(self, names: Sequence[str], inputs: Any, engine: Engine, *, common: bool) -> Tensor | None:
        """Outputs of members in evaluation mode, shape ``(K, B, C)``.

        Args:
            names: Members, K in all.
            inputs: Shape ``(K, B, ...)``; ``(B, ...)`` if ``common``.
            engine: Engine that computes them.
            common: True if all members see the same inputs.

        Returns:
            The outputs, or None if the engine fails or gives others than a member in evaluation mode. Engines are
            checked in training mode before, where the two may differ.
        """
        if self._predicts is False:
            return None
        stack, _, _ = self.seated()
        places = [self.places[name] for name in names]
        first, last = places[0], places[-1] + 1
        rows = stack.flat[first:last] if places == list(range(first, last)) else stack.flat[places]
        try:
            outputs = engine.outputs(stack.by_key(rows), inputs, common=common)
        except Exception as error:  # noqa: BLE001 - whatever an engine cannot do is left to each member
            log.warning(
                "Fleets: %s: they predict one after another, since it failed (%s).", self.label, short_error(error)
            )
            self._predicts = False
            return None
        if self._predicts is None:
            own = inputs if common else first_of(inputs)
            self._predicts = self._as_evaluated(self.members[first].local.participant, own, outputs[0])
        return outputs if self._predicts else None

    @staticmethod
    @torch.no_grad()
    def _as_evaluated(participant: Participant, inputs: Any, outputs: Tensor) -> bool:
        with evaluating(participant):
            alone = participant(inputs)
        tolerance = output_tolerance(outputs.dtype, outputs.device)
        return bool(torch.allclose(outputs, alone, rtol=tolerance, atol=tolerance, equal_nan=True))

    def seated(self) -> tuple[Stack, StackedOptimizer, int]:
        """The stack, its optimizer and the number of seated members.

        Raises:
            RuntimeError: If no member is seated.
        """
        if self.stack is None or self.optimizer is None or not self.members:
            raise RuntimeError("A fleet was asked to compute before its members were seated; this is a fault of ours.")
        return self.stack, self.optimizer, len(self.members)


def first_of(inputs: Any) -> Any:
    """Inputs of the first of K participants, shape ``(B, ...)``.

    Args:
        inputs: Inputs of all, shape ``(K, B, ...)``, or a mapping of such tensors.
    """
    return {key: value[0] for key, value in inputs.items()} if isinstance(inputs, Mapping) else inputs[0]
