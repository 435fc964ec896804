"""One institution's participant, trained on its own data by its own Trainer, with pauses to hear from others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L

from hetfed_lightning.data.module import FederatedDataModule
from hetfed_lightning.federated_callback import Career, FederatedCallback
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.flower.protocol.description import Description, describe, subjects
from hetfed_lightning.flower.protocol.orders import Order, Reply
from hetfed_lightning.flower.protocol.untrusted import one_line
from hetfed_lightning.flower.site.account_file import AccountFile, check_noise, opened_account
from hetfed_lightning.flower.site.order_checks import MORE_ROUNDS, check_rounds, most_repeats
from hetfed_lightning.flower.site.site_round import Act, Pause, SiteEnd, SiteRound, own_figures
from hetfed_lightning.flower.site.site_store import UNTRAINED, Place, SiteStore, Stage
from hetfed_lightning.participants.participant import STUDENT

log = logging.getLogger(__name__)

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
"""Default settings of a site's Trainer, which lives for one message; the coordinator logs its metrics."""

DESCRIPTION = "description"
"""Name that stands for a run before one has begun; no run may have it."""


class SiteError(RuntimeError):
    """An order that this site cannot carry out; the message names site, round and reason."""


@dataclass(frozen=True)
class SiteParts:
    """Objects made of a site's configuration.

    Attributes:
        federation: Federation of one participant, untouched by any run.
        data: Data module of the participant.
        settings: Settings of its Trainer; those of ``QUIET`` are set by default.
        callbacks: The configuration's callbacks that act between participants, in its order.
        rounds: Number of rounds of the whole run.
        most_rounds: Largest number of rounds that the site takes part in; 0 for ``MORE_ROUNDS`` times ``rounds``.
    """

    federation: Federation
    data: FederatedDataModule
    settings: Mapping[str, Any]
    callbacks: Sequence[FederatedCallback]
    rounds: int
    most_rounds: int = 0


class Site:
    """Site that carries out orders. Its state is on disk between two of them, so that each may be another process.

    Args:
        make: Function that makes new parts at each call, since an order may take several fits.
        folder: The site's ``state-dir``.
    """

    def __init__(self, make: Callable[[], SiteParts], folder: str | Path) -> None:
        self._make = make
        self._folder = folder
        self._parts: SiteParts | None = None
        self._account: AccountFile | None = None
        self._times: tuple[int, int | None] = (0, None)
        self.reply = Reply("", 0)

    # Orders

    def describe(self) -> Description:
        """Description of this site; preprocessing is fitted to its own data, and nothing is trained."""
        found: list[Description] = []

        def look(clock: SiteRound, trainer: L.Trainer, federation: Federation) -> None:
            del clock
            found.append(describe(self._taken().callbacks, trainer, federation))
            raise Pause

        self._fit(Order(DESCRIPTION), None, None, started=look)
        joins_at, leaves_at = self._times
        return replace(found[0], joins_at=joins_at, leaves_at=leaves_at)

    def carry_out(self, order: Order) -> Reply:
        """Reply to an order, which is carried out here.

        Raises:
            OrderError: If a part of it is not the coordinator's to decide; the site is unchanged.
            SiteError: If the site's state does not allow it.
            OSError: If the state cannot be saved; the one before stays.
        """
        store = SiteStore(self._folder, order.run)
        parts = self._taken()
        check_rounds(order, self._name, parts.most_rounds or MORE_ROUNDS * parts.rounds)
        with store.alone(), self._accounted(store):
            self.reply = Reply(self._name, 0)
            before = self._check_pace(order, store)
            try:
                self._do(order, store)
            finally:
                after = store.newest()
                if after is None or (before is not None and after <= before):
                    store.note_repeat()
            self.reply.samples = 0 if self._name == STUDENT else self._taken().data.num_samples(self._name)
        return self.reply

    def _do(self, order: Order, store: SiteStore) -> None:
        if order.left_out:
            closed = "A round" if order.finish is None else f"Round {order.finish + 1}"
            log.warning("%s: the coordinator left %s out: %s.", closed, self._name, one_line(order.left_out))
        if order.finish is not None:
            self._finish(order, order.finish, store)
        if order.enter is not None:
            self._enter(order, Place(order.enter, Stage.ENTERED), store)
        if order.attend is not None:
            self._enter(order, Place(order.attend, Stage.ATTENDED), store)
        if order.begin is not None:
            self._begin(order, order.begin, store)
        if order.learn is not None:
            self._learn(order, order.learn, store)
        if order.messages and all(one is None for one in (order.enter, order.attend, order.begin, order.learn)):
            self._offer(order, store)

    @contextmanager
    def _accounted(self, store: SiteStore) -> Iterator[None]:
        """Context with a private participant's account, in which a killed process's leftovers are settled."""
        private = any(one.privacy is not None for one in self._taken().federation.members().values())
        if not private:
            check_noise(self._folder, self._name)
        with opened_account(self._folder, self._name) if private else nullcontext() as account:
            self._account = account
            try:
                store.take_up(() if account is None else account.states)
                yield
            finally:
                self._account = None

    def _check_pace(self, order: Order, store: SiteStore) -> Place | None:
        """Newest place; refuses to go back, or to repeat the same, without end.

        No place is newer after an order that has brought the run no further.
        """
        ends, newest, most = _ends(order), store.newest(), most_repeats(self._taken().rounds)
        if ends:
            store.check_return(ends[0], self._name)
        leads_on = bool(ends) and (newest is None or newest < ends[-1])
        store.check_repeats(2 * most if leads_on else most, self._name)  # An order that leads on may still fail.
        return newest

    def _finish(self, order: Order, round_index: int, store: SiteStore) -> None:
        """Close a round: receive the shared state, validate."""
        end = Place(round_index, Stage.FINISHED)
        fingerprint = self._fingerprint(replace(order, finish=round_index).closing)
        if self._said_again(order, fingerprint, end, store):
            if self.reply.finished != round_index:
                self._validate(order, end, store)
            return
        place = store.newest(before=end)
        if place is None or place.round_index < round_index or place.stage in UNTRAINED:
            self._catch_up(order, round_index, store, place)
            return

        def close(clock: SiteRound, trainer: L.Trainer, federation: Federation) -> None:
            del trainer
            clock.close(federation, round_index)

        self._fit(order, place, store, started=close, end=end, fingerprint=fingerprint)

    def _catch_up(self, order: Order, round_index: int, store: SiteStore, place: Place | None) -> None:
        """Close a round that the site has not trained in, since it was not sampled or was away."""
        place = self._closed(order, place, store)

        def validate(clock: SiteRound, trainer: L.Trainer, federation: Federation) -> None:
            _go_to(trainer, round_index)
            clock.catch_up(federation, round_index)
            _go_to(trainer, round_index + 1)
            clock.save(trainer)
            raise Pause

        end = Place(round_index, Stage.FINISHED)
        fingerprint = self._fingerprint(replace(order, finish=round_index).closing)
        self._fit(order, place, store, started=validate, end=end, fingerprint=fingerprint)
        self._validate(order, end, store)

    def _validate(self, order: Order, place: Place, store: SiteStore) -> None:
        parts = self._taken()
        trainer = _trainer(parts, parts.rounds, SiteRound(order, self.reply, parts.callbacks, lambda _: None))
        trainer.validate(parts.federation, datamodule=parts.data, ckpt_path=store.path_of(place), verbose=False)
        self.reply.metrics = own_figures(trainer, [self._name])
        self.reply.finished = place.round_index

    def _begin(self, order: Order, round_index: int, store: SiteStore) -> None:
        """Take the local steps of a round."""
        end, fingerprint = Place(round_index, Stage.TRAINED), self._fingerprint(order)
        if self._said_again(order, fingerprint, end, store):
            store.take_back(end)
            return
        place = self._closed(order, store.newest(before=end), store)

        def move(clock: SiteRound, trainer: L.Trainer, federation: Federation) -> None:
            del clock
            _go_to(trainer, round_index)
            if place is None:  # A newcomer's schedules begin with its first round.
                federation.begin_schedules(round_index)

        self._fit(order, place, store, started=move, end=end, fingerprint=fingerprint)

    def _closed(self, order: Order, place: Place | None, store: SiteStore) -> Place | None:
        """Place to go on from: after the close of a round that the site has trained in and never heard the end of.

        Results belong to the round in progress, and are not received as that one is closed.
        """
        if place is None or place.stage == Stage.FINISHED or place.stage in UNTRAINED:
            return place
        self._finish(replace(order, shared={}, is_last=False), place.round_index, store)
        return Place(place.round_index, Stage.FINISHED)

    def _enter(self, order: Order, end: Place, store: SiteStore) -> None:
        """Open a round without training in it, or attend its end."""
        place = self._closed(order, store.newest(before=end), store)
        when: Literal["start", "end"] = "start" if end.stage == Stage.ENTERED else "end"

        def enter(clock: SiteRound, trainer: L.Trainer, federation: Federation) -> None:
            _go_to(trainer, end.round_index)
            if place is None:
                federation.begin_schedules(end.round_index)
            clock.enter(trainer, federation, when)

        self._fit(order, place, store, started=enter, end=end)

    def _learn(self, order: Order, round_index: int, store: SiteStore) -> None:
        """Learn from the ensemble at a round's end."""
        place = Place(round_index, Stage.TRAINED)
        if place not in store.places():
            raise SiteError(
                f"Round {round_index}: participant {self._name!r} is to learn at the round's end, and has no state of "
                f"its local steps in {store.folder}. It takes part again in the next round."
            )

        def learn(clock: SiteRound, trainer: L.Trainer, federation: Federation) -> None:
            clock.learn(trainer, federation, round_index)

        self._fit(order, place, store, started=learn, end=Place(round_index, Stage.LEARNED))

    def _offer(self, order: Order, store: SiteStore) -> None:
        """Send the shared state as it is, for a group to begin with."""

        def offer(clock: SiteRound, trainer: L.Trainer, federation: Federation) -> None:
            del trainer
            clock.offer(federation)
            raise Pause

        self._fit(order, store.newest(), store, started=offer)

    def _fingerprint(self, order: Order) -> str:
        """Fingerprint of an order under privacy, since drawing noise twice would reveal more; else empty."""
        return "" if self._account is None else order.fingerprint

    def _said_again(self, order: Order, fingerprint: str, end: Place, store: SiteStore) -> bool:
        """True if the same order has led to a place before; repeats its reply, since it reveals nothing new."""
        if not fingerprint or end not in store.places():
            return False
        found: list[bool] = []

        def look(clock: SiteRound, trainer: L.Trainer, federation: Federation) -> None:
            del trainer
            found.append(clock.say_again(federation, fingerprint, closes=end.stage == Stage.FINISHED))
            raise Pause

        self._fit(order, end, store, started=look)
        return found[0]

    # One fit

    def _fit(
        self,
        order: Order,
        place: Place | None,
        store: SiteStore | None,
        *,
        started: Act,
        end: Place | None = None,
        fingerprint: str = "",
    ) -> None:
        """Go on from a place until a callback pauses the fit."""
        account = self._account

        def save(trainer: L.Trainer) -> None:
            if end is None or store is None:
                return
            content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            note = None
            if account is not None and (new := parts.federation[self._name].ledger.since(account.ledger)).releases:
                note = partial(account.note, order.run, end.round_index, new)
            store.write(end, content, note)

        def begin(clock: SiteRound, trainer: L.Trainer, federation: Federation) -> None:
            if account is not None:
                account.take_up(federation[self._name])
            started(clock, trainer, federation)

        parts = self._parts = self._make()
        for participant in parts.federation.members().values():
            self._times = participant.joins_at, participant.leaves_at
            participant.attend()  # In every round: the coordinator knows those for joining and leaving.
        clock = SiteRound(
            order, self.reply, parts.callbacks, save,
            started=begin, fingerprint=fingerprint, career=self._career(parts.rounds),
        )  # fmt: skip
        # A coordinator may lead more rounds than this file says: there has to be one left to pause in.
        rounds = max(parts.rounds, (end.round_index if end else 0) + 1, (place.round_index if place else 0) + 2)
        trainer = _trainer(parts, rounds, clock, SiteEnd(self.reply, save))
        path = None if place is None or store is None else store.path_of(place)
        try:
            trainer.fit(parts.federation, datamodule=parts.data, ckpt_path=path)
        except Pause:
            return
        raise SiteError(f"participant {self._name!r}: {order.summary} ended without a pause; this is a fault of ours.")

    def _career(self, rounds: int) -> Career:
        joins_at, leaves_at = self._times
        return Career(joins_at, range(joins_at, max(joins_at, rounds if leaves_at is None else min(leaves_at, rounds))))

    @property
    def _name(self) -> str:
        return next(iter(subjects(self._taken().federation)))

    def _taken(self) -> SiteParts:
        if self._parts is None:
            self._parts = self._make()
        return self._parts


def _trainer(parts: SiteParts, rounds: int, *callbacks: L.Callback) -> L.Trainer:
    # Settings that a configuration leaves out are None.
    settings = QUIET | {key: value for key, value in parts.settings.items() if value is not None}
    settings["callbacks"] = [*settings.get("callbacks", []), *callbacks]
    return L.Trainer(**settings, max_epochs=rounds)


def _ends(order: Order) -> list[Place]:
    """Places to which the parts of an order lead, in their order."""
    parts = (
        (order.finish, Stage.FINISHED),
        (order.enter, Stage.ENTERED),
        (order.attend, Stage.ATTENDED),
        (order.begin, Stage.TRAINED),
        (order.learn, Stage.LEARNED),
    )
    return [Place(round_index, stage) for round_index, stage in parts if round_index is not None]


def _go_to(trainer: L.Trainer, round_index: int) -> None:
    """Make the fit go on with another round; schedulers catch up when it opens."""
    progress = trainer.fit_loop.epoch_progress
    for counters in (progress.total, progress.current):
        counters.ready = counters.started = counters.processed = counters.completed = round_index  # type: ignore[attr-defined]
