"""A round at a site: it pauses wherever others have to be heard, and goes on in another process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from hetfed_lightning.callbacks.monitor import learning_rates
from hetfed_lightning.federated_callback import Career, FederatedCallback
from hetfed_lightning.federation.quarantine import quarantine_non_finite
from hetfed_lightning.federation.round_clock import HasRounds, RoundClock
from hetfed_lightning.flower.protocol.deployable import carried_methods
from hetfed_lightning.flower.protocol.description import subjects
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.site.order_checks import OrderChecks
from hetfed_lightning.flower.site.site_carrier import SiteCarrier
from hetfed_lightning.local_training.dpsgd_steps import PrivacyBudgetError
from hetfed_lightning.logs.metric_store import tag
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.participants.participant import STUDENT

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.federation.federation import Federation
    from hetfed_lightning.federation_view import FederationView


log = logging.getLogger(__name__)


class Pause(Exception):  # noqa: N818 - it is no error
    """Signal that the site has done all it can without the others, and has saved its state."""


Act = Callable[["SiteRound", L.Trainer, "Federation"], None]
"""Function of a site's round, called at a place of its fit."""


class SiteRound(RoundClock):
    """Callback that carries out one part of an order in a fit of a federation of one, and pauses the fit.

    The configuration's callbacks that act between participants are not among the Trainer's. Their work at a site (terms
    of the loss, learning, resetting optimizer states) is called here. Their work on all sites' messages is done by the
    coordinator.

    Args:
        order: Order with the part.
        reply: Reply, which receives results.
        callbacks: Callbacks of the configuration, in its order.
        save: Function of the Trainer that saves the state.
        started: Function called before the first batch, when the state has been restored.
        fingerprint: Fingerprint of the order, saved with the state and the reply, so that the reply is repeated instead
            of computed anew. Empty if it can be computed again, to the bit.
        career: Rounds from the participant's first to its last; None if no steps are to be foreseen.
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
        self.carriers = {place: SiteCarrier(one, place, order) for place, one in carried_methods(callbacks).items()}
        self.represented = sorted((one.method for one in self.carriers.values()), key=lambda method: method.phase)
        self._working = [one for one in self.represented if one.plans_work() and not one.teaches_within_round]
        self.save = save
        self.started = started
        self.fingerprint = fingerprint
        self.said: dict[str, Any] = {}
        self._samples = 0
        self._checks = OrderChecks(callbacks)
        self.safe: dict[str, Tensor] | None = None

    # Hooks of the fit

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Check all of the order, then act, with the state as it was saved.

        Args:
            trainer: Trainer of the fit.
            pl_module: The federation.
        """
        for carrier in self.carriers.values():
            carrier.prepare(pl_module)
        self._checks.check(pl_module, self.order)
        federation: Federation = pl_module
        self._samples = sum(map(federation.federated_data.num_samples, federation.members()))
        if self.started is not None:
            self.started(self, trainer, pl_module)

    def allow(self, federation: HasRounds, round_index: int, batch_idx: int) -> None:
        """Pause with the reason in place of a round that a privacy budget does not allow.

        Args:
            federation: The site's federation.
            round_index: The round, from 0.
            batch_idx: Index of its first batch.
        """
        try:
            super().allow(federation, round_index, batch_idx)
        except PrivacyBudgetError as error:
            self.reply.quarantined = str(error).rstrip(".")
            log.warning("%s", error)
            raise Pause from error

    def meet(self, trainer: L.Trainer, federation: HasRounds, round_index: int, *, resumed: bool) -> None:
        """Receive what was handed out, and take the steps that are planned for a newcomer.

        Args:
            trainer: Trainer of the fit.
            federation: The site's federation.
            round_index: The round, from 0.
            resumed: Unused.
        """
        del round_index, resumed
        site = cast("Federation", federation)
        self.receive(site, closes=False)
        self._take_lessons(site)
        self._join(trainer, site)

    def part(self, trainer: L.Trainer, federation: HasRounds, round_index: int) -> None:
        """Pause after the local steps, with the results that the order asks for.

        Args:
            trainer: Trainer of the fit.
            federation: The site's federation.
            round_index: Unused.
        """
        del round_index
        quarantine_non_finite(federation, losses=True)
        self.pause(trainer, cast("Federation", federation))

    # Parts of an order

    def receive(self, federation: Federation, *, closes: bool) -> None:
        """Take over what is handed out, callback by callback.

        Args:
            federation: The site's federation.
            closes: True as a round is closed, False as one opens.
        """
        round_index = federation.current_round
        for place in sorted(self.order.shared):
            if closes:
                self.carriers[place].hand_out(federation, round_index)
            else:
                self.carriers[place].open_round(federation, round_index)

    def enter(self, trainer: L.Trainer, federation: Federation, when: Literal["start", "end"]) -> None:
        """Receive what is handed out as a round opens, send messages without training in it, and pause.

        Args:
            trainer: Trainer of the fit.
            federation: The site's federation.
            when: Moment of the messages.
        """
        self.receive(federation, closes=False)
        joins = when == "end" and self.order.joins and bool(self._working)
        if joins or self.order.is_pupil:
            federation.open_round(federation.current_round)
            self._take_lessons(federation)
            if joins:
                self._join(trainer, federation)
            federation.round_state.close()
        self.send(federation, when)
        self.save(trainer)
        self.reply.shared = self._messages()
        raise Pause

    def send(self, federation: Federation, when: Literal["start", "end"]) -> None:
        """Make the messages that the order asks for; one that is not finite quarantines the participant.

        Args:
            federation: The site's federation.
            when: Moment of the messages.
        """
        for carrier in self.carriers.values():
            carrier.collect(federation, federation.current_round, when)
            if not isinstance(carrier.sent, str):
                continue
            for name in federation.members():
                if federation.round_is_open:
                    federation.quarantine(name, carrier.sent)
                else:
                    self.reply.quarantined = carrier.sent

    def _messages(self) -> dict[int, dict[str, Tensor]]:
        """Messages just made, by place."""
        if self.reply.quarantined:
            return {}
        sent = {place: one.sent for place, one in self.carriers.items() if isinstance(one.sent, dict)}
        return {place: {key: tensor.cpu() for key, tensor in one.items()} for place, one in sent.items()}

    def learn(self, trainer: L.Trainer, federation: Federation, round_index: int) -> None:
        """Learn at a round's end from what came, and pause.

        Args:
            trainer: Trainer of the fit.
            federation: The site's federation.
            round_index: The round, from 0.
        """
        self.reopen(federation, round_index)
        teaching = [one for place, one in sorted(self.carriers.items()) if place in self.order.shared]
        self._receive_and_work(federation, round_index, teaching, has_trained=True)
        quarantine_non_finite(federation)
        self.pause(trainer, federation)

    def close(self, federation: Federation, round_index: int) -> None:
        """Receive the shared state at a round's end, and log learning rates.

        Args:
            federation: The site's federation.
            round_index: The round, from 0.
        """
        self.reopen(federation, round_index)
        self._receive_and_work(federation, round_index, self._closing, has_trained=True)
        for method in self.represented:
            if isinstance(method, BackboneAveraging) and method.is_due(round_index):
                for name in federation.active_names(round_index):
                    method.tidy(federation, name)
        self._drop_results()
        federation.log_round(learning_rates(federation, list(subjects(federation))))
        federation.close_round()

    def catch_up(self, federation: Federation, round_index: int) -> None:
        """Receive what is handed out at the end of a round that the site has not trained in.

        Args:
            federation: The site's federation.
            round_index: The round, from 0.
        """
        if self.order.is_last and self._working:
            federation.open_round(round_index)
            self._receive_and_work(federation, round_index, self._closing, has_trained=False)
            federation.round_state.close()
        else:
            self.receive(federation, closes=True)
        self._drop_results()

    def _drop_results(self) -> None:
        """Drop what was received for a round that is closed now."""
        for carrier in self.carriers.values():
            carrier.close_round()

    @property
    def _closing(self) -> list[SiteCarrier]:
        """Carriers of methods whose results close a round, in their order."""
        return [one for _, one in sorted(self.carriers.items()) if not one.method.teaches_within_round]

    def _receive_and_work(
        self, federation: Federation, round_index: int, carriers: Sequence[SiteCarrier], *, has_trained: bool
    ) -> None:
        """Receive results, each followed by the steps that its method plans after it."""
        is_students = federation.student is not None  # Its stand-in for the sites learns nothing.
        names = [] if self.order.left_out or is_students else list(federation.members())
        if any(one.method.plans_work() for one in carriers):
            federation.hear(self.represented)
        for carrier in carriers:  # As in one process, where all are combined before any is handed out.
            carrier.take_up(federation)
        for carrier in carriers:
            carrier.hand_out(federation, round_index)
            here = [name for name in names if name not in federation.guard.quarantined]
            last = here if self.order.is_last else None
            carrier.method.work_after(federation, round_index, here if has_trained else (), last)
            if carrier.method.plans_work():
                quarantine_non_finite(federation)

    def _join(self, trainer: L.Trainer, federation: Federation) -> None:
        """Have a newcomer take the steps that are planned for it."""
        if self.order.joins:
            federation.hear(self.represented)
            for method in self._working:
                method.on_join(trainer, federation, list(federation.members()), federation.current_round)

    def reopen(self, federation: Federation, round_index: int) -> None:
        """Go on with the round in which the state was saved.

        Args:
            federation: The site's federation.
            round_index: The round, from 0.
        """
        federation.open_round(round_index, resumed=True)
        if self.safe is not None:
            federation.guard.hold(dict.fromkeys(subjects(federation), self.safe))

    def pause(self, trainer: L.Trainer, federation: Federation) -> None:
        """Save the state, add shared tensors to the reply, and leave the fit.

        Args:
            trainer: Trainer of the fit.
            federation: The site's federation.
        """
        self.send(federation, "end")
        for name in subjects(federation):
            self.safe = federation.guard.safe_state(name)
            self.reply.quarantined = federation.guard.quarantined.get(name, self.reply.quarantined)
            self.reply.idle = name != STUDENT and federation.local[name].landed == 0
        self.save(trainer)
        self.reply.shared = self._messages()
        raise Pause

    def offer(self, federation: Federation) -> None:
        """Add the state that the order asks for, as it is, to the reply."""
        for carrier in self.carriers.values():
            if not (carrier.method.needs_steps and self.reply.idle):
                carrier.send_state(federation)
        self.reply.shared |= self._messages()

    def say_again(self, federation: Federation, fingerprint: str, *, closes: bool) -> bool:
        """True if the state was made by the same order and on as many examples; the reply is then repeated.

        Args:
            federation: The site's federation, with the state.
            fingerprint: Fingerprint of the order.
            closes: True if the order closed a round, False if it trained in one.
        """
        said, (name, *_) = self.said, federation.members()
        if said.get("order") != fingerprint or said["samples"] != federation.federated_data.num_samples(name):
            return False
        if closes:
            self.reply.metrics, self.reply.finished = dict(said["metrics"]), said["finished"]
            return True
        if said["quarantined"]:
            return False
        self.reply.idle = said["idle"]
        self.offer(federation)
        self.reply.shared |= said.get("messages", {})  # Older states have none.
        return True

    def _take_lessons(self, federation: Federation) -> None:
        """Have a pupil learn what it has received of those who were there before."""
        for method in self.represented if self.order.is_pupil else ():
            if isinstance(method, EnsembleDistillation):
                federation.hear(self.represented)
                method.teach(federation, list(federation.members()), federation.current_round)

    def callbacks_of(self, trainer: L.Trainer) -> list[FederatedCallback]:
        """Callbacks of the configuration that act at this site."""
        del trainer
        return list(self.represented)

    def rounds_ahead(self, trainer: L.Trainer, round_index: int) -> list[int]:
        """The round of the order alone: the next one is another fit."""
        del trainer
        return [round_index]

    def career_of(self, federation: FederationView, name: str) -> Career:
        """All rounds from the participant's first to its last, since the site cannot know those it will be sampled for.

        Args:
            federation: The site's federation.
            name: Name of the participant.
        """
        return super().career_of(federation, name) if self.career is None else self.career

    # State

    def state_dict(self) -> dict[str, Any]:
        """State that a quarantine returns to, what methods received and remember, and the reply."""
        made = {place: one for place, one in self._messages().items() if not self.carriers[place].method.sends_state}
        said = {
            "order": self.fingerprint,
            "samples": self._samples,
            "metrics": dict(self.reply.metrics),
            "finished": self.reply.finished,
            "quarantined": self.reply.quarantined,
            "idle": self.reply.idle,
            "messages": made,
        }
        return {
            "safe": self.safe,
            "methods": {place: carrier.state_dict() for place, carrier in self.carriers.items()},
            "said": said if self.fingerprint else {},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the result of :meth:`state_dict`."""
        self.safe = state_dict["safe"]
        self.said = dict(state_dict.get("said", {}))  # Older states have none.
        saved = state_dict.get("methods", {})
        for place, carrier in self.carriers.items():
            if place in saved:
                carrier.load_state_dict(saved[place])


class SiteEnd(Checkpoint):
    """Callback that pauses when a round has been closed, after every other callback.

    Args:
        reply: Reply, which receives metrics.
        save: Function of the Trainer that saves the state.
    """

    def __init__(self, reply: Reply, save: Callable[[L.Trainer], None]) -> None:
        self.reply = reply
        self.save = save

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Save the state and the metrics, and leave the fit.

        Args:
            trainer: Trainer of the fit.
            pl_module: The federation.
        """
        federation: Federation = pl_module
        self.reply.metrics = own_figures(trainer, list(subjects(federation)))
        self.reply.finished = federation.current_round - 1
        self.save(trainer)
        raise Pause


_OF_ALL = (tag("quarantined", ""), "federation/")


def own_figures(trainer: L.Trainer, names: Sequence[str]) -> dict[str, float]:
    """Metrics of some participants, by tags that end with their names, as far as their data define them.

    Quarantine is not among them, since the coordinator knows of it.

    Args:
        trainer: Trainer after a validation.
        names: Names of the participants.
    """
    undefined = cast("Federation", trainer.lightning_module).logbook.undefined.reasons
    return {
        key: float(torch.as_tensor(value))
        for key, value in trainer.callback_metrics.items()
        if key.rpartition("/")[2] in names and key not in undefined and not key.startswith(_OF_ALL)
    }
