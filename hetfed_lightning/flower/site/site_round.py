"""A round as a site lives it: it stops wherever others have to be heard, and goes on in another process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from hetfed_lightning.callbacks.asking import own_answers
from hetfed_lightning.callbacks.backbone_averaging import BackboneAveraging
from hetfed_lightning.callbacks.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.callbacks.monitor import learning_rates
from hetfed_lightning.callbacks.sharing import SharingGroup
from hetfed_lightning.federated_callback import Career, FederatedCallback
from hetfed_lightning.finite import why_not_heard
from hetfed_lightning.flower.protocol.description import subjects
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.site.order_checks import OrderChecks
from hetfed_lightning.inspection import quarantine_non_finite
from hetfed_lightning.ledger import tag
from hetfed_lightning.participant import STUDENT
from hetfed_lightning.private_steps import PrivacyBudgetError, open_budgets
from hetfed_lightning.rounds import RoundClock

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.federation import Federation


log = logging.getLogger(__name__)


class Pause(Exception):  # noqa: N818 - it is no error
    """The site has done what can be done without the others; what is to be kept has been kept."""


Act = Callable[["SiteRound", L.Trainer, "Federation"], None]
"""Something that a site does at a place of its fit."""


class SiteRound(RoundClock):
    """Carries out one part of an order inside of a fit of a federation of one, and pauses it.

    The callbacks of the configuration that act between participants are not among the Trainer's: what they do at a site
    (terms of the loss, learning, starting afresh) is called here, and what they do with what was sent elsewhere.

    Args:
        order: Of which it is a part.
        reply: Receives what others are to know.
        callbacks: Those of the configuration, in its order.
        save: Called with the Trainer where the state is to be kept.
        started: Called before the first batch, as the state has been restored.
        fingerprint: Of what is asked for: is kept with the state and what was said, to be said again instead of made
            anew. Empty where it can be made again, to the bit.
        career: The rounds from the participant's first to its last; None where no steps are to be foreseen.
    """

    def __init__(
        self,
        order: Order,
        reply: Reply,
        callbacks: Sequence[FederatedCallback],
        save: Callable[[L.Trainer], None],
        *,
        started: Act | None = None,
        fingerprint: str = "",
        career: Career | None = None,
    ) -> None:
        super().__init__()
        self.career = career
        self.order = order
        self.reply = reply
        self.averaging = {place: one for place, one in enumerate(callbacks) if isinstance(one, BackboneAveraging)}
        self.distilling = {place: one for place, one in enumerate(callbacks) if isinstance(one, EnsembleDistillation)}
        self.save = save
        self.started = started
        self.fingerprint = fingerprint
        self.said: dict[str, Any] = {}
        self._samples = 0
        self._checks = OrderChecks(callbacks)
        self.safe: dict[str, Tensor] | None = None
        self.anchors: dict[int, dict[str, Tensor]] = {}

    # Where it acts

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """The state is as it was saved: look at all of the order, then act."""
        self._checks.check(pl_module, self.order)
        federation: Federation = pl_module
        self._samples = sum(map(federation.federated_data.num_samples, federation.members()))
        if self.started is not None:
            self.started(self, trainer, pl_module)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Open the round at its first batch."""
        del trainer, batch
        federation: Federation = pl_module
        if federation.round_is_open:
            return
        try:
            open_budgets(federation, federation.current_round, batch_idx)
        except PrivacyBudgetError as error:
            self.reply.quarantined = str(error).rstrip(".")
            log.warning("%s", error)
            raise Pause from error
        federation.open_round(federation.current_round)
        self.receive(federation)
        targets = _on(federation.device, self.order.targets)
        for place, callback in self.distilling.items():
            callback.set_targets(targets.get(place))
        self._take_lessons(federation)
        self._set_anchors(federation)
        federation.adding = [one for one in self._all() if one.adds_to_loss(federation)]
        federation.fleets.open_round(federation, federation.trained_here(federation.current_round))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Pause at the round's last batch, and have others know what the order asks for."""
        del outputs, batch, batch_idx
        if not trainer.is_last_batch:
            return
        federation: Federation = pl_module
        federation.finish_local_work()
        quarantine_non_finite(federation, losses=True)
        if self.order.answer_after:
            self.answer(federation)
        self.pause(trainer, federation)

    # What it does

    def receive(self, federation: Federation) -> None:
        """Take over what is shared."""
        for participant in federation.members().values():
            for place, state in self.order.shared.items():
                participant.load_state_of(state)
                if self.averaging[place].proximal:
                    self.anchors[place] = participant.state_of(state)

    def _set_anchors(self, federation: Federation) -> None:
        """Hold the participant near what it received last, if a proximal term asks for that."""
        for place, state in self.anchors.items():
            callback = self.averaging[place]
            callback.groups = [SharingGroup(tuple(federation.members()), tuple(state))]
            callback.shared.begin(callback.groups[0], dict(state))
            callback.set_anchors(federation)

    def learn(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """Learn from the ensemble at a round's end, and pause."""
        self.reopen(federation, round_index)
        names = [name for name in subjects(federation) if name not in federation.guard.quarantined]
        for place, targets in _on(federation.device, self.order.targets).items():
            self.distilling[place].learn(federation, names, targets, round_index)
        quarantine_non_finite(federation)
        self.pause(trainer, federation)

    def close(self, federation: Federation, round_index: int) -> None:
        """Receive what is shared at a round's end, and note what was measured while training."""
        self.reopen(federation, round_index)
        self.receive(federation)
        for callback in self.averaging.values():
            for name in federation.active_names(round_index) if callback.is_due(round_index) else ():
                callback.tidy(federation, name)
        federation.log_round(learning_rates(federation, list(subjects(federation))))
        federation.close_round()

    def reopen(self, federation: Federation, round_index: int) -> None:
        """Go on with the round that the state was saved in."""
        federation.open_round(round_index, resumed=True)
        if self.safe is not None:
            federation.guard.hold(dict.fromkeys(subjects(federation), self.safe))

    def answer(self, federation: Federation) -> None:
        """Answer the public set."""
        for name in federation.members():
            if name in federation.guard.quarantined:
                return
            said = own_answers(federation, [name])[name]
            reason = why_not_heard(said, federation[name].task.kind)
            if not reason:
                self.reply.answers = said.cpu()
            elif federation.round_is_open:
                federation.quarantine(name, reason)
            else:
                self.reply.quarantined = reason

    def pause(self, trainer: L.Trainer, federation: Federation) -> None:
        """Keep the state, say what is asked for, and leave the fit."""
        for name in subjects(federation):
            self.safe = federation.guard.safe_state(name)
            self.reply.quarantined = federation.guard.quarantined.get(name, self.reply.quarantined)
            self.reply.idle = name != STUDENT and federation.local[name].landed == 0
        self.save(trainer)
        if not self.reply.quarantined and not self.reply.idle:
            self.offer(federation)
        raise Pause

    def offer(self, federation: Federation) -> None:
        """Send what the order asks for of what is shared."""
        for participant in federation.members().values():
            self.reply.shared = {
                place: {key: tensor.cpu() for key, tensor in participant.state_of(keys).items()}
                for place, keys in self.order.keys.items()
            }

    def say_again(self, federation: Federation, fingerprint: str, *, closes: bool) -> bool:
        """Reply as when the state was made, if it was made by the same order and on as many examples.

        Args:
            federation: With the state.
            fingerprint: Of the order.
            closes: Whether it closed a round, or trained in one.

        Returns:
            Whether it was.
        """
        said, (name, *_) = self.said, federation.members()
        if said.get("order") != fingerprint or said["samples"] != federation.federated_data.num_samples(name):
            return False
        if closes:
            self.reply.metrics, self.reply.finished = dict(said["metrics"]), said["finished"]
            return True
        if said["quarantined"]:
            return False
        self.reply.answers, self.reply.idle = said["answers"], said["idle"]
        if not self.reply.idle:
            self.offer(federation)
        return True

    def _take_lessons(self, federation: Federation) -> None:
        round_index = federation.current_round
        for place, targets in _on(federation.device, self.order.lessons).items():
            pupils = {
                name: one.transfer.distillation_epochs
                for name, one in federation.members().items()
                if one.transfer is not None and one.transfer.distillation_epochs
            }
            self.distilling[place].teach(federation, pupils, targets, round_index)

    def callbacks_of(self, trainer: L.Trainer) -> list[FederatedCallback]:
        """Those of the configuration that act at this site."""
        del trainer
        return self._all()

    def career_of(self, federation: Federation, name: str) -> Career:
        """All rounds from its first to its last: the coordinator alone knows which it will be drawn for."""
        return super().career_of(federation, name) if self.career is None else self.career

    def _all(self) -> list[FederatedCallback]:
        return [*self.distilling.values(), *self.averaging.values()]

    # What it keeps

    def state_dict(self) -> dict[str, Any]:
        """The state that a quarantine goes back to, what a proximal term holds to, and what is being said of it."""
        said = {
            "order": self.fingerprint,
            "samples": self._samples,
            "metrics": dict(self.reply.metrics),
            "finished": self.reply.finished,
            "quarantined": self.reply.quarantined,
            "idle": self.reply.idle,
            "answers": self.reply.answers,
        }
        return {"safe": self.safe, "anchors": self.anchors, "said": said if self.fingerprint else {}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with it."""
        self.safe = state_dict["safe"]
        self.anchors = dict(state_dict["anchors"])
        self.said = dict(state_dict.get("said", {}))  # Older states have none.


class SiteEnd(Checkpoint):
    """Pauses when a round has been closed, after every other callback.

    Args:
        reply: Receives what was measured.
        save: Called with the Trainer.
    """

    def __init__(self, reply: Reply, save: Callable[[L.Trainer], None]) -> None:
        self.reply = reply
        self.save = save

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Keep the state and the figures, and leave the fit."""
        federation: Federation = pl_module
        self.reply.metrics = own_figures(trainer, list(subjects(federation)))
        self.reply.finished = federation.current_round - 1
        self.save(trainer)
        raise Pause


_OF_ALL = (tag("quarantined", ""), "federation/")


def own_figures(trainer: L.Trainer, names: Sequence[str]) -> dict[str, float]:
    """Of all figures those of some participants, whose tags end with their names, and which their data define.

    Who is left out the coordinator knows by itself.
    """
    undefined = cast("Federation", trainer.lightning_module).logbook.undefined.reasons
    return {
        key: float(torch.as_tensor(value))
        for key, value in trainer.callback_metrics.items()
        if key.rpartition("/")[2] in names and key not in undefined and not key.startswith(_OF_ALL)
    }


def _on(device: torch.device, targets: Mapping[int, Tensor]) -> dict[int, Tensor]:
    return {place: one.to(device) for place, one in targets.items()}
