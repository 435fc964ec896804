"""Check before the first round that monitored metrics will be logged."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint

from hetfed_lightning.callbacks.headline_metrics import federation_figures, headlines
from hetfed_lightning.checkpointing.file_names import fields_of
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.federated_callback import acting_callbacks
from hetfed_lightning.logs.metric_store import QUARANTINED, tag
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.averaging.private_averaging import PrivateAveraging
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.methods.method import Method
from hetfed_lightning.methods.method_figures import figure_suffix
from hetfed_lightning.participants.participant import Participant

if TYPE_CHECKING:
    from hetfed_lightning.data.module import FederatedDataModule
    from hetfed_lightning.federation_view import FederationView

log = logging.getLogger(__name__)

ALWAYS = ("epoch", "step")
"""Names that Lightning's checkpoints may use without any logged value."""

STOCK = ("hetfed_lightning.", "lightning.", "pytorch_lightning.")
"""Prefixes of modules whose classes log nothing but the metrics of :func:`measured`."""


_FURTHER = re.compile(r"((?:federation/)?[^/]+)\.[A-Za-z0-9_-]+?((?:_(?:mean|worst|std|jain))?|/.+)")
"""Figure of a method's further model: ``val_loss.common/a``, ``federation/val_loss.common_mean``."""


def check_monitors(federation: FederationView, data: FederatedDataModule, first_round: int = 0) -> None:
    """Refuse metrics that are monitored, or part of a file name, and not logged from the first round on.

    A participant or callback of the user's own may log any metric. If there is one, an unknown metric gives a warning,
    and Lightning ends the run after the first round if it was not logged.

    Args:
        federation: The federation at the beginning of a fit, its optimizers made.
        data: Data module, checked.
        first_round: Index of the first round, from 0; later than 0 in a resumed run.

    Raises:
        MisconfigurationException: If there is one; names the callback, the metric, and the metric probably meant.
    """
    followed = [*_followed_by_callbacks(federation.trainer), *_followed_by_schedulers(federation)]
    if not followed:
        return
    known = measured(federation, data)
    asks = any(one.gives_answers() for one in acting_callbacks(federation.trainer))
    late = _not_yet_measured(federation, first_round)
    for who, monitor, candidates in followed:
        # A further model's name is known once its method has answered: its figures are those of the network.
        found = [name for name in candidates if name in known or (asks and _of_network(name) in known)]
        if found:
            if who == EarlyStopping.__name__:
                _check_every_round(federation, who, found[0], late)
            continue
        message = f"{who} follows {monitor!r}, which nobody measures{_instead(monitor, known, federation)}."
        if not _log_their_own(federation):
            raise MisconfigurationException(message)
        log.warning("%s A participant or callback of your own would have to log it.", message)


def _of_network(name: str) -> str:
    """Name of the network's own figure, for one of a method's further model such as ``val_loss.common/a``."""
    found = _FURTHER.fullmatch(name)
    return name if found is None else found[1] + found[2]


def _check_every_round(federation: FederationView, who: str, name: str, late: dict[str, int]) -> None:
    """Refuse what is not there in some rounds for who ends the run without it."""
    metric, _, owner = name.rpartition("/")
    if owner in late:
        why = f"{owner!r} joins at round {late[owner]}"
    elif federation.participation < 1 and owner in federation.members() and not metric.startswith("val_"):
        why = f"{owner!r} is not drawn for every round (participation={federation.participation:g})"
    else:
        return
    raise MisconfigurationException(
        f"{who} follows {name!r} in every round, and {why}. Set strict=False, or follow another metric."
    )


def _not_yet_measured(federation: FederationView, first_round: int) -> dict[str, int]:
    return {name: one.joins_at for name, one in federation.members().items() if one.joins_at > first_round}


def measured(federation: FederationView, data: FederatedDataModule) -> set[str]:
    """Names of metrics that the package's participants log in a round, and of their summaries.

    Args:
        federation: Federation with participants and student.
        data: Data module, for its validation sets.
    """
    sets, validates = data.data, federation.trainer.limit_val_batches != 0
    known = {tag("train_loss", name) for name in federation.members()}
    for name, participant in federation.members().items():
        if validates and sets.val.get(name) is not None:
            known |= _evaluated(participant, name, everyone=False)
    if validates and sets.global_val is not None:
        for name, participant in federation.everyone().items():
            known |= _evaluated(participant, name, everyone=True)
    values, of_members = dict.fromkeys(known, 0.5), headlines(federation.members())
    for figures in federation_figures(of_members, "val", values):
        known |= figures.keys()
    known |= _of_the_federation(federation)
    for name in federation.everyone():
        optimizers = federation.local[name].optimizers
        groups = sum(len(optimizer.param_groups) for optimizer in optimizers)
        rates = ["lr"] if groups == 1 else [f"lr_{number}" for number in range(1, groups + 1)]
        known |= {tag(rate, name) for rate in rates}
    return known


def _of_the_federation(federation: FederationView) -> set[str]:
    """Figures that a round and the package's methods log, some of them in some rounds alone."""
    names = {"quarantined", "participants", "bytes_up", "bytes_down", "skipped_steps"}
    callbacks: list[Any] = federation.trainer.callbacks  # type: ignore[attr-defined]  # the Trainer sets it where no checker looks
    methods = [one for one in callbacks if isinstance(one, Method)]
    for method in methods:
        names |= {f"bytes_{way}/{method.title}" for way in ("up", "down")}
        suffix = figure_suffix(method, methods)
        if isinstance(method, BackboneAveraging):
            names |= {f"divergence{suffix}", f"clipped{suffix}"}
        if isinstance(method, PrivateAveraging):
            names |= {"epsilon", "epsilon_rehearsed"}
        if isinstance(method, EnsembleDistillation):
            names |= {f"{figure}{suffix}" for figure in ("teacher_agreement", "target_classes", "public_fit")}
    own = {tag(figure, name) for figure in ("epsilon", QUARANTINED) for name in federation.members()}
    return own | {f"federation/{name}" for name in names}


def _evaluated(participant: Participant, name: str, *, everyone: bool) -> set[str]:
    metrics = participant.task.metrics(2)  # The width makes no difference to their names.
    return {tag(f"val_{metric}", name, everyone=everyone) for metric in ("loss", *metrics)}


def _followed_by_callbacks(trainer: L.Trainer) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # the Trainer sets it where no checker looks
        monitor = getattr(callback, "monitor", None)
        strict = not isinstance(callback, EarlyStopping) or callback.strict
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and monitor not in {None, *ALWAYS} and strict:
            yield type(callback).__name__, str(monitor), (str(monitor),)
        if isinstance(callback, ModelCheckpoint) and callback.filename:  # Lightning would write 0 for what is unknown.
            for field in fields_of(callback.filename):
                if field not in ALWAYS:
                    yield f"The file name {callback.filename!r} of a ModelCheckpoint", field, (field,)


def _followed_by_schedulers(federation: FederationView) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for name, local in federation.local.items():
        for schedule in local.schedules:
            if schedule.follows_metric and schedule.monitor is not None:
                monitor = schedule.monitor
                yield f"{local.participant.label}: its ReduceLROnPlateau", monitor, (tag(monitor, name), monitor)


def _instead(monitor: str, known: set[str], federation: FederationView) -> str:
    """Metrics that could be meant, in words: for one without an owner, the participants' own and their mean."""
    if not any(name.startswith(("val_", "federation/val_")) for name in known) and "val_" in monitor:
        return ": there are no validation sets"
    owners = [tag(monitor, name) for name in federation.everyone()]
    found = [name for name in owners if name in known]
    if found:
        mean = f"federation/{monitor}_mean"
        shown = [*found[:3], *([mean] if mean in known else [])]
        return f" under this name; each participant has its own: {', '.join(shown)}"
    if f"federation/{monitor}" in known:
        return f"; did you mean 'federation/{monitor}'?"
    return did_you_mean(monitor, sorted(known))


def _log_their_own(federation: FederationView) -> bool:
    """True if there is code that may log more than the package's own does."""
    modules: list[Any] = [federation, *federation.everyone().values()]
    parts = [*modules, *federation.trainer.callbacks]  # type: ignore[attr-defined]  # as above
    steps = {"training_step", "validation_step", "log"}
    return (
        any(not type(one).__module__.startswith(STOCK) or isinstance(one, LambdaCallback) for one in parts)
        or any(steps & vars(one).keys() for one in modules)  # Replaced on the object.
    )
