"""Evaluation of participants: each on its own data, all of them on global data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from hetfed_lightning.batches import split_batch
from hetfed_lightning.data.module import GLOBAL, NothingLoader
from hetfed_lightning.federation.log_writer import is_fitting
from hetfed_lightning.federation_view import FederationView
from hetfed_lightning.fleets.validation_lookahead import steps_its_own_way, versions_of
from hetfed_lightning.local_training.local_step import seed_for
from hetfed_lightning.participants.participant import STUDENT, Scope

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.participants.batch_result import Evaluated

Measured = Literal["validation", "test"]


class Evaluates(FederationView, Protocol):
    """Interface of a federation to the evaluation of its participants.

    Attributes:
        scope: ``"global"`` while global data is evaluated, else ``"own"``.
    """

    @property
    def scope(self) -> Scope:
        """``"global"`` while everyone's data is evaluated, else ``"own"``."""

    @property
    def predict_with(self) -> str | None:
        """Name of the predictor of ``Trainer.predict``; None for the student if there is one, else the data's owner."""


def owner_of(loaders: Any, dataloader_idx: int) -> str:
    """Name of the participant that owns a loader's data; :data:`GLOBAL` for data of all participants.

    Args:
        loaders: Loaders by owner, or a single one.
        dataloader_idx: Index of the loader.
    """
    return list(loaders)[dataloader_idx] if isinstance(loaders, Mapping) else GLOBAL


def evaluate(federation: Evaluates, what: Measured, owner: str, batch: Any, batch_idx: int) -> None:
    """Evaluate one batch of validation or test data with its owner, or with all participants if it is global.

    Args:
        federation: The federation, in a run.
        what: Step of the participants to call.
        owner: Owner of the data; participants that have yet to join are left out.
        batch: Batch on the device, before any transform.
        batch_idx: Index of the batch in the loader.
    """
    fitting, now = is_fitting(federation.trainer), federation.current_round
    if owner != GLOBAL:
        names = [owner] if not fitting or federation[owner].is_member(now) else []
    else:
        here = federation.joined(now) if fitting else list(federation.participants)
        names = here + ([STUDENT] if federation.student is not None else [])
    with federation.logbook.on_data_of("global" if owner == GLOBAL else "own"):
        names = list(filter(federation.ranks.measures, names))
        if owner == GLOBAL:
            inputs = split_batch(batch)[0]
            names = [name for name in names if federation[name].reads_any_of(inputs)]
            known = federation.fleets.evaluated(names, batch) if len(names) > 1 else {}
        else:
            known = (
                federation.fleets.lookahead.evaluated(owner, batch, batch_idx) if names and what == "validation" else {}
            )
        versions = versions_of(batch) if known else ()
        for name in names:
            _step(federation, name, what, batch, batch_idx, known.get(name), versions)


def skip_empty_validation(trainer: L.Trainer) -> None:
    """Make a fit without validation data skip its validations, which would still visit all modules.

    Args:
        trainer: Trainer about to train, its loaders made.
    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    loaders = trainer.val_dataloaders
    if isinstance(loaders, Mapping) and all(isinstance(loader, NothingLoader) for loader in loaders.values()):
        loop._max_batches = [0] * len(loaders)


def validates_in(trainer: L.Trainer, round_index: int) -> bool:
    """True if a round that has ended was validated, by ``Trainer(check_val_every_n_epoch=...)``.

    Args:
        trainer: Trainer of a fit.
        round_index: Index of the round, from 0. If validations are counted by batches over the whole run, only the last
            one is known; for earlier rounds, processed again on resuming, True is assumed.
    """
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
    if every is not None:
        return (round_index + 1) % every == 0
    progress = trainer.fit_loop.epoch_loop.batch_progress
    done = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    if round_index != done - 1 or not isinstance(interval, int):
        return True
    return progress.total.ready // interval > (progress.total.ready - progress.current.ready) // interval


def predict(federation: Evaluates, owner: str, batch: Any, batch_idx: int) -> Any:
    """Predictions for one batch by ``predict_with``, the student, or the owner of the data.

    Whoever predicts on data of others answers as for everyone's.

    Args:
        federation: The federation, in a run.
        owner: Owner of the data.
        batch: Batch on the device, before any transform.
        batch_idx: Index of the batch in the loader.

    Raises:
        ValueError: If the data is global and no predictor was chosen.
    """
    name = federation.predict_with or (STUDENT if federation.student is not None else owner)
    if name == GLOBAL:
        raise ValueError("predict: several participants could; choose one by Federation(predict_with=...).")
    with federation.logbook.on_data_of("own" if name == owner else "global"):
        return _step(federation, name, "predict", batch, batch_idx)


def _step(
    federation: Evaluates,
    name: str,
    what: str,
    batch: Any,
    batch_idx: int,
    evaluated: Evaluated | None = None,
    versions: Sequence[int] = (),
) -> Any:
    """One participant's step; ``evaluated`` is what a fleet has found for a batch of these ``versions``."""
    participant = federation[name]

    def hook(name: str) -> Callable[..., Any]:
        return cast("Callable[..., Any]", getattr(participant, name))

    seed_for(federation, participant, what, federation.scope, federation.current_round, name, batch_idx)
    batch = participant.on_after_batch_transfer(batch, 0)
    federation.logbook.see(batch)
    hook(f"on_{what}_batch_start")(batch, batch_idx)
    if evaluated is None or steps_its_own_way(participant, f"{what}_step") or versions_of(batch) != versions:
        output = hook(f"{what}_step")(batch, batch_idx)
    else:
        output = None
        participant.evaluate_batch(batch, "test" if what == "test" else "val", evaluated)
    hook(f"on_{what}_batch_end")(output, batch, batch_idx)
    return output
