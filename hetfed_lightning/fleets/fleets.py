"""The fleets of a run: their members, their engines, and the way of a batch through them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor

from hetfed_lightning.batches import split_batch
from hetfed_lightning.data.blocks import RoundBatch, StackedBatch, stacked
from hetfed_lightning.data.collating import batch_of
from hetfed_lightning.federated_callback import acting_callbacks
from hetfed_lightning.fleets.bystanders import bystanders, runs_between_steps
from hetfed_lightning.fleets.calibration import Trial, engine_named, fastest, try_engines
from hetfed_lightning.fleets.callback_terms import shapes_of, terms_of
from hetfed_lightning.fleets.compatibility import faults_of_optimizers, keeps_up, kind_and_settings, obstacle, signature
from hetfed_lightning.fleets.engine import Engine, EngineName
from hetfed_lightning.fleets.fleet import Fleet, first_of
from hetfed_lightning.fleets.independence import dependence
from hetfed_lightning.fleets.log_text import listed, short_error
from hetfed_lightning.fleets.member import Member
from hetfed_lightning.fleets.member_queries import MemberQueries
from hetfed_lightning.fleets.planned_rows import trained_in
from hetfed_lightning.fleets.reference import own_batch
from hetfed_lightning.fleets.rehearsal import layouts_of, rehearse
from hetfed_lightning.fleets.snapshot import Snapshot
from hetfed_lightning.fleets.unused_modules import unused_keys
from hetfed_lightning.local_training.backward import is_usual
from hetfed_lightning.participants.torch_hooks import anything_has_hooks
from hetfed_lightning.seeding import seed_sample, seed_torch, stream_seed

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView

log = logging.getLogger(__name__)


class Fleets(MemberQueries):
    """Fleets of a round's participants, formed and trained.

    Args:
        engine: ``"auto"`` measures engines on the first batch; any other name is used wherever that engine can be.

    Raises:
        ValueError: If there is no such engine.
    """

    def __init__(self, engine: EngineName = "auto") -> None:
        if engine not in get_args(EngineName):
            raise ValueError(f"engine: expected one of {', '.join(get_args(EngineName))}, got {engine!r}.")
        super().__init__()
        self.wanted = engine
        self.chosen: dict[str, EngineName] = {}
        self._kinds: dict[str, str | None] = {}
        self._found: dict[str, Snapshot] = {}
        self._settings: dict[str, list[Any]] = {}
        self._told: set[str] = set()
        self._tried: set[str] = set()
        self._rehearsed: dict[str, set[Hashable]] = defaultdict(set)

    # Once a run

    def forget(self) -> None:
        """Begin a run anew: all that was found of its participants is dropped."""
        self.disband()
        self.chosen, self._kinds, self._found, self._told, self._tried = {}, {}, {}, set(), set()
        self._rehearsed = defaultdict(set)

    def resume(self, chosen: Mapping[str, EngineName]) -> None:
        """Take over a checkpoint's engines, since the last digits depend on them; excluded ones are left out.

        Args:
            chosen: Engine of each kind of participant, by the kind's signature.
        """
        self.chosen = {kind: engine for kind, engine in chosen.items() if self.wanted in {"auto", engine}}

    def take_seats(self, federation: FederationView) -> None:
        """Seat the members as at the end of the round, to validate from a checkpoint made before the validation.

        If only a sample trains, participants that borrow their shared tensors stay out: they left their seats for the
        loan.
        """
        round_index = federation.current_round
        all_train = len(federation.active_names(round_index)) == len(federation.joined(round_index))
        seated = [one for one in federation.trained_here(round_index) if all_train or not federation[one].loans]
        self.open_round(federation, seated, terms=False)
        for kind, fleet in self._fleets.items():
            if kind in self.chosen and fleet.engine is None:
                inputs = _sample_of(federation, fleet)
                own = None if inputs is None else (first_of(inputs), None)
                self.chosen[kind] = self._go_on(fleet, kind, inputs, own)

    def open_round(self, federation: FederationView, names: Sequence[str], *, terms: bool = True) -> None:
        """Seat participants that train in this round and have at least one other of their kind.

        Args:
            federation: Federation in a fit.
            names: Participants that train.
            terms: True to ask callbacks for the terms that they add to the losses.
        """
        self._seats = {}
        watched = bystanders(federation)
        self.has_bystanders, self.is_watchful = bool(watched), any(map(runs_between_steps, watched))
        self.may_have_changed = False
        answering = [one for one in acting_callbacks(federation.trainer) if one.gives_answers()]
        self.asks_methods = bool(answering)
        if self.wanted == "sequential":
            return
        kin: dict[str, list[str]] = defaultdict(list)
        common = next(self._common_obstacles(federation), None) if names else None
        if common is None:
            self._find_kin(federation, names)
        else:
            self._tell("common", f"Fleets: everyone trains one after another, since {common}.")
        steps_of, apart = federation.train_loader().steps_of, self._apart_by_plans(federation, names)
        for name in names if common is None else ():
            kind = None if federation[name].held or name in apart else self._kinds[name]
            if kind is not None and self.chosen.get(kind) != "sequential":
                kin[kind].append(name)
        for kind, fleet in list(self._fleets.items()):
            if len(kin[kind]) < 2:
                fleet.dissolve()
                del self._fleets[kind]
        for kind, members in kin.items():
            if len(members) < 2:
                continue
            # Stable: equals keep their order.
            places = sorted(members, key=lambda name: -steps_of(name, federation.current_round))
            seats = [Member.of(name, federation.local[name], self._found[name]) for name in places]
            if kind not in self._fleets:
                self._fleets[kind] = Fleet(seats[0])
            self._seat(federation, kind, seats, terms=terms)
        if answering and self._seats:
            who = type(answering[0]).__name__
            self._tell("answers", f"Fleets: evaluated one after another, since {who} answers for each participant.")

    def _apart_by_plans(self, federation: FederationView, names: Sequence[str]) -> set[str]:
        """Participants that train one after another in the round because of what is planned for them."""
        if federation.plans.is_empty:
            return set()
        plans, round_index = federation.plans, federation.current_round
        own = [name for name in names if any(one.optimizer for one in plans.of(federation, name, round_index))]
        modules = [name for name in names if plans.learns_by_modules(federation, name)]
        for found, reason in (
            (own, "a part of their plans has an optimizer of its own"),
            (modules, "modules of a method may have a part in their losses on public data"),
        ):
            if found:
                self._tell(
                    f"plans: {reason}",
                    f"Fleets: {listed(found)}: one after another in rounds such as {round_index}, since {reason}.",
                )
        return {*own, *modules}

    def _seat(self, federation: FederationView, kind: str, seats: Sequence[Member], *, terms: bool) -> None:
        fleet = self._fleets[kind]
        fleet.enlist(seats)
        if kind in self.chosen:
            fleet.seat()
        if terms:
            fleet.open_round(terms_of(federation, fleet), shapes_of(federation, fleet))
        else:
            fleet.open_round()
        self._seats |= dict.fromkeys((one.name for one in seats), kind)

    @staticmethod
    def _common_obstacles(federation: FederationView) -> Iterator[str]:
        plugin = federation.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision):
            yield f"precision {plugin.precision} casts within each step"
        if federation.ranks.reduction is not None:
            yield "each batch is split over processes"
        if (listener := federation.step_hooks.listener) is not None:
            yield f"{listener} is about each participant's own gradients"
        if not is_usual(federation.trainer):
            yield "the precision plugin or the strategy does something around each backward pass"
        if anything_has_hooks():
            yield "hooks are registered for all modules or optimizers"
        for callback in acting_callbacks(federation.trainer):
            if callback.follows_steps() and not callback.follows_fleets():
                yield f"{type(callback).__name__} acts after each step of each participant"
        for shaping in federation.shaping:
            if not keeps_up(type(shaping), "fleet_shape", "shaped_losses"):
                yield f"{type(shaping).__name__} shapes the loss of each participant's examples"
        for adding in federation.adding:
            if not keeps_up(type(adding), "fleet_term", "local_loss"):
                yield f"{type(adding).__name__} adds to each participant's loss"

    def _find_kin(self, federation: FederationView, names: Sequence[str]) -> None:
        """Find each participant's kind; log, once per reason, those without one whose architecture others share."""
        apart: dict[str, dict[Any, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name in names:
            participant, local = federation[name], federation.local[name]
            if participant.held or self._is_as_found(federation, name):  # Frozen participants join no fleet.
                continue
            reason = obstacle(participant, local)
            self._kinds[name], self._settings[name] = None, []
            self._found.pop(name, None)
            if reason is None:
                self._found[name] = Snapshot(participant)
                self._kinds[name] = signature(participant, local.optimizers[0])
                self._settings[name] = kind_and_settings(local.optimizers[0])
            else:
                shapes = tuple((key, parameter.shape) for key, parameter in participant.named_parameters())
                apart[reason][shapes].append(name)
        for reason, networks in apart.items():
            expected = [one for one in networks.values() if len(one) > 1 or self.wanted != "auto"]
            if expected:
                who = listed([name for one in expected for name in one])
                self._tell(reason, f"Fleets: {who}: one after another, since {reason}.")

    def _is_as_found(self, federation: FederationView, name: str) -> bool:
        """True if a participant is still of the kind that was found; code of the package itself changes none."""
        if not self.has_bystanders and name in self._kinds:
            return True
        if name not in self._found or self._found[name].difference() is not None:
            return False
        optimizers = federation.local[name].optimizers
        faults = faults_of_optimizers(optimizers, federation[name])
        return next(faults, None) is None and self._settings[name] == kind_and_settings(optimizers[0])

    def _tell(self, subject: str, line: str) -> None:
        """Log a line, the first time that its subject comes up."""
        if subject not in self._told:
            self._told.add(subject)
            log.info("%s", line)

    # Once a batch

    def train(self, federation: FederationView, batch: Mapping[str, Any], batch_idx: int) -> Mapping[str, Any]:
        """Part of a batch that fleets have not trained on, by participant; fleets take one step on the other part.

        Args:
            federation: Federation in a fit.
            batch: Batches by participant, on the device, before any transform.
            batch_idx: Index of the batch in the round.

        Returns:
            Batches of participants that are to train one after another.
        """
        if not self._seats:
            return batch
        if self.is_watchful or self.may_have_changed:
            self._let_changed_ones_go(federation, batch_idx)
        left = dict(batch)
        for kind, fleet in list(self._fleets.items()):
            present = [one for one in fleet.members if one.name in batch]
            # Members without a batch left are in the last rows.
            if len(present) < 2 or present != fleet.members[: len(present)]:
                continue
            whole = self._whole(federation, fleet, present, batch, batch_idx)
            if whole is None:
                continue
            names = [one.name for one in present]
            try:
                if fleet.of_methods and fleet.unused is None:
                    fleet.unused = unused_keys(fleet, whole)
                engine = self._engine_of(fleet, kind, whole)
                if engine is None or not self._agrees(fleet, kind, whole, engine):
                    continue
                with federation.ranks.timing(names, federation.device):
                    trained = trained_in(federation, fleet, present, batch_idx)
                    losses = fleet.local_step(whole, engine, batch_idx, trained=trained)
            except Exception as error:  # noqa: BLE001 - a loss that cannot be computed: by itself its owner is named
                log.warning("Fleets: %s: one after another, since a step failed (%s).", fleet.label, short_error(error))
                self.chosen[kind] = self._leave(fleet)
                continue
            self._note(federation, fleet, whole, losses)
            for name in names:
                del left[name]
        return left

    def stepping(
        self, federation: FederationView, names: Sequence[str], batch_idx: int
    ) -> Iterator[tuple[Fleet, Engine, list[Member]]]:
        """Fleets whose first members are exactly those of ``names`` that are seated in them, two at least.

        Args:
            federation: Federation in a round.
            names: Participants that step.
            batch_idx: Index of the step in the round.
        """
        if not names or not self._seats:
            return
        if self.is_watchful or self.may_have_changed:
            self._let_changed_ones_go(federation, batch_idx)
        for fleet in list(self._fleets.values()):
            present = [one for one in fleet.members if one.name in names]
            if fleet.engine is None or fleet.learns_alone or len(present) < 2:
                continue
            if present == fleet.members[: len(present)]:
                yield fleet, fleet.engine, present

    def _let_changed_ones_go(self, federation: FederationView, batch_idx: int) -> None:
        """Take members out of their fleets for the rest of the round if a callback has changed them."""
        self.may_have_changed = False
        everyone = "hooks are registered for all modules or optimizers" if anything_has_hooks() else None
        for kind, fleet in list(self._fleets.items()):
            changes = fleet.changes() if everyone is None else {one.name: everyone for one in fleet.members}
            if not changes:
                continue
            for reason in dict.fromkeys(changes.values()):
                names = [name for name, why in changes.items() if why == reason]
                self._tell(
                    f"changed: {reason}",
                    f"Fleets: round {federation.current_round}, batch {batch_idx}: {listed(names)}: by "
                    f"{'itself' if len(names) == 1 else 'themselves'} for the rest of the round, since {reason}.",
                )
            others = [one for one in fleet.members if one.name not in changes]
            # A new stack for the others: the callback may hold on to a view of the old one.
            fleet.dissolve()
            for name in changes:
                self._seats.pop(name, None)
            if len(others) > 1:
                self._seat(federation, kind, others, terms=True)
            else:
                del self._fleets[kind]

    @staticmethod
    def _whole(
        federation: FederationView, fleet: Fleet, members: Sequence[Member], batch: Mapping[str, Any], batch_idx: int
    ) -> StackedBatch | None:
        """The members' batches as one, or None if they cannot be stacked."""
        if isinstance(batch, RoundBatch) and not fleet.transforms:
            block = batch.block_of([one.name for one in members])
            if block is not None:
                return block
        return stacked([_drawn(federation, fleet, one, batch, batch_idx) for one in members])

    def _engine_of(self, fleet: Fleet, kind: str, batch: StackedBatch) -> Engine | None:
        """The fleet's engine, chosen at its first batch; None if that is the sequential one."""
        if fleet.engine is None:
            self.chosen[kind] = self._choose(fleet, kind, batch)
        return fleet.engine

    def _agrees(self, fleet: Fleet, kind: str, batch: StackedBatch, engine: Engine) -> bool:
        """True if methods' losses give the same together as one after another; tried once for each layout of theirs."""
        found = layouts_of(fleet, batch.count)
        if found <= self._rehearsed[kind]:
            return True
        if (fault := rehearse(fleet, engine, batch)) is not None:
            log.info("Fleets: %s: one after another, since %s.", fleet.label, fault)
            self.chosen[kind] = self._leave(fleet)
            return False
        self._rehearsed[kind] |= found
        return True

    def _choose(self, fleet: Fleet, kind: str, batch: StackedBatch) -> EngineName:
        known = self.chosen.get(kind)
        if known is not None and known != "sequential":  # Of an earlier round, or of a checkpoint.
            return self._go_on(fleet, kind, batch.inputs, own_batch(batch, 0))
        # Compiled, vmap is the fastest where it works; as it is, batched products beat it wherever they apply.
        order: list[EngineName] = ["batched", "vmap"] if fleet.compile_settings is None else ["vmap", "batched"]
        choose = self.wanted == "auto"
        trials = try_engines(fleet, batch, order if choose else [self.wanted], choose=choose)
        best = fastest(trials) if choose else trials[self.wanted]
        log.info("Fleets: %s: %s.", fleet.label, _report(trials, best))
        fleet.engine = best.engine
        if best.engine is None:
            return self._leave(fleet)
        fleet.seat()
        self._tried.add(kind)
        return best.name

    def _go_on(self, fleet: Fleet, kind: str, inputs: Any, own: tuple[Any, Tensor | None] | None) -> EngineName:
        """Name of the engine that a kind trains with, the one of before unless it fails now.

        Args:
            fleet: Fleet with its members seated.
            kind: Their signature.
            inputs: Inputs of one batch or more, shape ``(K, B, ...)``.
            own: Inputs ``(B, ...)`` and targets of the first member, to check once in a run that the network treats
                examples independently; None to trust the engine.
        """
        engine = self.chosen[kind]
        if own is not None and kind not in self._tried:
            if (fault := dependence(fleet, *own)) is not None:
                log.info("Fleets: %s: sequential, since %s fails (%s).", fleet.label, engine, fault)
                return self._leave(fleet)
            self._tried.add(kind)
        fleet.engine = engine_named(engine, fleet, inputs)
        return engine if fleet.engine is not None else self._leave(fleet)

    @staticmethod
    def _leave(fleet: Fleet) -> EngineName:
        fleet.dissolve()
        return "sequential"

    @staticmethod
    def _note(federation: FederationView, fleet: Fleet, batch: StackedBatch, losses: Tensor) -> None:
        """Log the losses as ``Participant.training_step`` does, and count the steps."""
        federation.logbook.ledgers["train"].record_row(fleet.loss_keys[: batch.count], losses, batch.sizes)
        fleet.count_step(batch.count)


def _drawn(federation: FederationView, fleet: Fleet, member: Member, batch: Mapping[str, Any], batch_idx: int) -> Any:
    """A member's batch, transformed, with the random numbers that the member would draw by itself."""
    own, participant = batch[member.name], member.local.participant
    if not fleet.transforms:
        return own
    seed = stream_seed(federation.seed, federation.current_round, member.name, batch_idx)
    seed_sample(seed)
    seed_torch(seed, federation.device)
    try:
        own = participant.on_after_batch_transfer(own, 0)
        for term in fleet.terms:
            term.draw(member, batch_idx)
    except Exception as error:
        error.add_note(f"{participant.label}, round {federation.current_round}, batch {batch_idx}")
        raise
    return own


def _sample_of(federation: FederationView, fleet: Fleet) -> Any:
    """Inputs of one member's batch of one training sample, as the fleet would have it: shape ``(1, 1, ...)``."""
    data, collate_fn = federation.federated_data.data.train, federation.federated_data.collate_fn
    member = next(one for one in fleet.members if one.name in data)
    sample = batch_of(data[member.name], [0], collate_fn, member.local.participant.label)
    sample = federation.trainer.precision_plugin.convert_input(sample)
    sample = move_data_to_device(sample, federation.device)
    inputs = split_batch(member.local.participant.on_after_batch_transfer(sample, 0))[0]
    if isinstance(inputs, Mapping) and all(isinstance(value, Tensor) for value in inputs.values()):
        return {key: value[None] for key, value in inputs.items()}
    return inputs[None] if isinstance(inputs, Tensor) else None


def _report(trials: Mapping[EngineName, Trial], best: Trial) -> str:
    sequential = trials["sequential"].seconds
    others = [
        f"{trial.name} {trial.fault or f'{sequential / trial.seconds:.1f}x'}"
        for trial in trials.values()
        if trial is not best and trial.name != "sequential"
    ]
    if best.engine is None:
        head = "sequential" if best.fault is None else f"sequential, since {best.name} fails ({best.fault})"
    else:
        head = f"{best.name}, {sequential / best.seconds:.1f} times as fast as sequential"
    milliseconds = f"{1e3 * min(best.seconds, sequential):.2f} ms a step"
    return f"{head}, {milliseconds}{' (' + '; '.join(others) + ')' if others else ''}"
