"""Checks before the first step, which refuse by name everything that is known to fail."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.callbacks.spike import SpikeDetection
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from hetfed_lightning.batches import split_batch
from hetfed_lightning.data.collating import Collate, batch_of
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.labels import labels_of
from hetfed_lightning.data.name_checks import did_you_mean, name_problem, refuse_twin_names
from hetfed_lightning.distillation.outputs import KINDS
from hetfed_lightning.federated_callback import Phase, acting_callbacks
from hetfed_lightning.participants.first_batch import check_batch_of_one, first_batch, outputs_of, shapes_of
from hetfed_lightning.participants.multi_input import missing_in_training
from hetfed_lightning.participants.participant import STUDENT, Participant, output_width
from hetfed_lightning.strategies.checks import check_callbacks
from hetfed_lightning.strategies.strategy import FederatedStrategy

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.data.loaders import TrainingSet
    from hetfed_lightning.data.module import FederatedDataModule
    from hetfed_lightning.federation_view import FederationView

log = logging.getLogger(__name__)

_MODULES = nn.ModuleDict()
"""Empty module, whose attributes cannot be names of modules in it."""


TOGETHER = 4
"""Number of samples that are collated into one batch as a trial."""

REFUSED_CALLBACKS: Mapping[type[L.Callback], str] = {
    GradientAccumulationScheduler: "Use Participant(accumulate_grad_batches=...).",
    StochasticWeightAveraging: "Use lightning.pytorch.callbacks.WeightAveraging or EMAWeightAveraging.",
    BaseFinetuning: "Freeze layers in the participant: requires_grad_(False) there, and on_train_epoch_start to thaw.",
    ModelPruning: "Prune what was trained: Participant.load_from_checkpoint, then torch.nn.utils.prune.",
    LearningRateFinder: "Set each participant's rate in Participant(optimizer=...).",
    BatchSizeFinder: "It would try one size for everyone, of which participants have fewer examples: set batch_size in "
    "the data module.",
    SpikeDetection: "A step has no loss of its own here: look at train_loss/NAME in on_metrics of a FederatedCallback.",
}
"""Alternative for each of Lightning's callbacks that fails or misbehaves in a federation."""


def check_members(participants: Mapping[str, Any], student: Any | None) -> None:
    """Refuse unusable names, and participants that have an object in common.

    Args:
        participants: Participants by name.
        student: Unified model; None without one.

    Raises:
        TypeError: If a value is not a participant.
        ValueError: If there is none, a name is unusable, two share a parameter, or the student has an ``own_prior``.
    """
    if not isinstance(participants, Mapping):
        raise TypeError(f"participants: expected {{'name': Participant, ...}}, got {type(participants).__name__}.")
    if not participants:
        raise ValueError("participants: expected at least one, got none.")
    owners: dict[int, str] = {}
    for name, participant in [*participants.items(), *([] if student is None else [(STUDENT, student)])]:
        if not isinstance(participant, Participant):
            raise TypeError(f"participants[{name!r}]: expected a Participant, got {type(participant).__name__}.")
        if (problem := name_problem(name)) is not None:
            raise ValueError(f"participants: {problem}.")
        if (name == STUDENT and participant is not student) or hasattr(_MODULES, name):
            raise ValueError(f"participants: {name!r} is reserved; choose another name.")
        for key, parameter in participant.named_parameters():
            owner = owners.setdefault(id(parameter), name)
            if owner != name:
                raise ValueError(
                    f"participants: {owner!r} and {name!r} hold the same {key}; give each modules of its own "
                    "(copy.deepcopy makes them). What they share is averaged, not one object."
                )
    if student is not None and student.own_prior:
        raise ValueError(
            f"student: own_prior={student.own_prior} weighs the class shares of own training data, and the student has "
            "none. Leave own_prior out."
        )
    refuse_twin_names(participants, "participant", "participants")


def tell_of_no_exchange(federation: FederationView) -> None:
    """Log that participants train alone, if no callback does anything between several of them."""
    acting = acting_callbacks(federation.trainer)
    if len(federation.members()) > 1 and not any(one.phase < Phase.MONITORING for one in acting):
        log.info(
            "No callback exchanges anything: %d participants train alone. To have them learn together, give the "
            "Trainer a method, such as callbacks=[BackboneAveraging()].",
            len(federation.members()),
        )  # fmt: skip


def check_trainer(trainer: L.Trainer) -> None:
    """Refuse Trainer settings that have no meaning for participants with steps of their own.

    Raises:
        MisconfigurationException: If there is one; names the setting to use instead.
    """
    if trainer.gradient_clip_val:
        raise MisconfigurationException(
            f"Trainer(gradient_clip_val={trainer.gradient_clip_val}) would clip nothing: every participant clips its "
            "own gradients. Use Participant(gradient_clip_val=...)."
        )
    if trainer.accumulate_grad_batches != 1:
        raise MisconfigurationException(
            f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}) would accumulate nothing: every "
            "participant steps by itself. Use Participant(accumulate_grad_batches=...)."
        )
    if trainer.overfit_batches:  # type: ignore[attr-defined]  # the Trainer sets it where no checker looks
        raise MisconfigurationException(
            "Trainer(overfit_batches=...) replaces samplers, and a round draws its own batches. Use "
            "Trainer(limit_train_batches=...), or give the participants smaller training sets."
        )
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, FederatedStrategy)):
        raise MisconfigurationException(
            f"Trainer(strategy=...) gave {type(trainer.strategy).__name__}, which wraps the model for one optimizer "
            "and one loss; a federation has one for each participant. Use Trainer(strategy='federated')."
        )
    if trainer.world_size > 1:
        check_callbacks(trainer)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # as above
        for kind, instead in REFUSED_CALLBACKS.items():
            if isinstance(callback, kind):
                raise MisconfigurationException(
                    f"Trainer(callbacks=[{type(callback).__name__}(...)]) expects one model with one optimizer, and a "
                    f"federation has one for each participant. {instead}"
                )


def check_data(federation: FederationView, data: FederatedDataModule) -> None:
    """Refuse data that does not fit the participants.

    Args:
        federation: The federation before training.
        data: Data module of the run.

    Raises:
        ValueError: If it does not; names the participant, the finding and the remedy.
    """
    members = federation.members()
    rounds = federation.trainer.max_epochs
    _check_rounds(members, rounds)
    _check_quorum(federation, rounds)
    for name, participant in members.items():
        if rounds is not None and 0 < rounds <= participant.joins_at:
            log.warning(
                "%s never trains: it joins at round %d, counted from 0, and max_epochs=%d ends before.",
                participant.label, participant.joins_at, rounds,
            )  # fmt: skip
        _check_transfer(participant)
        source = data.source(name)
        width = _check_forward(participant, source, data.collate_fn)
        _check_batch(participant, source, data.collate_fn)
        if width is None:
            continue  # Its own steps know what to make of its batches.
        _check_targets(participant, "its training set", source.dataset, width)
        for what, dataset in (
            ("its validation set", data.data.val.get(name)),
            ("its test set", data.data.test.get(name)),
            ("everyone's validation set", data.data.global_val),
            ("everyone's test set", data.data.global_test),
        ):
            if dataset is None:
                continue
            inputs = split_batch(_first_batch_of(participant, what, dataset, data.collate_fn))[0]
            if what.startswith("everyone") and not participant.reads_any_of(inputs):
                log.info("%s reads nothing of %s (%s): it is not measured on it.",
                         participant.label, what, shapes_of(inputs))  # fmt: skip
                continue
            outputs_of(participant, inputs, what)
            _check_targets(participant, what, dataset, width)
        inputs, _ = split_batch(_first_batch_of(participant, "its training set", source.dataset, data.collate_fn))
        last = 0 if source.drop_last else source.num_samples % source.batch_size
        if source.batch_size == 1 or last == 1:
            check_batch_of_one(
                participant, inputs, f"{source.num_samples} examples in batches of {source.batch_size}",
                "Use GroupNorm, or leave the participant out." if source.num_samples == 1
                else "Change batch_size, set drop_last or use GroupNorm.",
            )  # fmt: skip


def check_names(members: dict[str, Participant], data: FederatedDataModule) -> None:
    """Refuse participants without a training set, and data sets without a participant.

    Args:
        members: Participants by name.
        data: Data module of the run.

    Raises:
        ValueError: If there is one; names the participant or the data set.
    """
    known = list(data.data.train)
    for name in members:
        if name not in known:
            raise ValueError(f"Participant {name!r} has no training set{did_you_mean(name, known)}.")
    for sets in (data.data.train, data.data.val, data.data.test):
        for name in sets:
            if name not in members:
                raise ValueError(f"There is data for {name!r}, but no such participant{did_you_mean(name, members)}.")


def _check_transfer(participant: Participant) -> None:
    transfer = participant.transfer
    if transfer is None or transfer.frozen_rounds == 0:
        return
    state = participant.state_dict(keep_vars=True)
    shared = {id(state[key]) for key in participant.shared_keys()}
    if all(id(parameter) in shared for parameter in participant.trainable_parameters()):
        raise ValueError(
            f"{participant.label}: transfer.frozen_rounds={transfer.frozen_rounds} freezes what it shares, which is "
            "all it could train. Give it a head that it does not share, or set frozen_rounds to 0."
        )


def _check_rounds(members: dict[str, Participant], rounds: int | None) -> None:
    """Refuse a run that goes on when all who had joined have left."""
    first = min(one.joins_at for one in members.values())
    last = max(one.leaves_at or 0 for one in members.values())
    for round_index in range(first, last + 1 if rounds is None or rounds < 0 else min(last + 1, rounds)):
        if not any(one.is_member(round_index) for one in members.values()):
            when = ", ".join(
                f"{name} from {one.joins_at}{'' if one.leaves_at is None else f' until before {one.leaves_at}'}"
                for name, one in members.items()
            )
            raise ValueError(
                f"Round {round_index} would have no participant ({when}; rounds are counted from 0). Change joins_at "
                "or leaves_at of one of them, or max_epochs."
            )


def _check_quorum(federation: FederationView, rounds: int | None) -> None:
    """Refuse rounds in which fewer take part than there have to be."""
    members, needed = federation.members(), federation.min_participants
    changes = {one.joins_at for one in members.values()} | {one.leaves_at or 0 for one in members.values()}
    for round_index in sorted(changes):
        active = federation.active_names(round_index)
        if active and len(active) < needed and not (rounds is not None and 0 <= rounds <= round_index):
            raise ValueError(
                f"Round {round_index} has {len(active)} of {len(members)} participants ({', '.join(active)}; joins_at, "
                f"leaves_at and participation={federation.participation:g} say so), min_participants={needed} are "
                "needed. Lower min_participants, or have more take part."
            )


def _check_forward(participant: Participant, source: TrainingSet, collate_fn: Collate | None) -> int | None:
    """Number of outputs of a participant for its own data; None where its own steps take batches that are no pairs."""
    if source.num_samples == 0:
        raise ValueError(f"{participant.label}: its training set is empty; remove the participant or give it data.")
    if source.batches_per_epoch == 0:
        raise ValueError(
            f"{participant.label}: {source.num_samples} training examples make no batch of {source.batch_size} with "
            "drop_last=True. Lower batch_size or set drop_last=False."
        )
    batch = _first_batch_of(participant, "its training set", source.dataset, collate_fn)
    inputs, target = split_batch(batch)
    if target is None and steps_by_itself(participant):
        return None
    if target is None:
        raise ValueError(
            f"{participant.label}: its training set yields {type(batch).__name__}, expected (input, target). Let "
            "collate_fn make the pair, or give the participant a training_step that takes such batches."
        )
    if missing := participant.missing_inputs(inputs):
        raise ValueError(missing_in_training(participant, missing, inputs))
    outputs = outputs_of(participant, inputs, "its training data")
    width = output_width(outputs)
    _check_predictions(participant, outputs)
    problem = participant.task.target_problem(target, width)
    if problem:
        raise ValueError(f"{participant.label}: {problem} (first training example).")
    return width


def _check_predictions(participant: Participant, outputs: Tensor) -> None:
    """Refuse a task that names no headline metric, or is of a kind of its own and makes no predictions."""
    task = participant.task
    for attribute, example in (("kind", "'regression'"), ("headline", "'mae', a metric's name")):
        if not isinstance(getattr(task, attribute, None), str):
            raise ValueError(  # noqa: TRY004 - one kind of error for a participant that cannot train
                f"{participant.label}: {type(task).__name__} has no {attribute}; set it in its class, as {example}."
            )
    if not task.has_packaged_metrics and "loss" in task.metrics(output_width(outputs)):
        raise ValueError(
            f"{participant.label}: a metric of {type(task).__name__} is called 'loss', which the task's own loss is "
            "logged as. Give the metric another name."
        )
    if task.kind in KINDS:
        return
    try:
        task.predictions(outputs)
    except Exception as error:
        raise ValueError(
            f"{participant.label}: {type(task).__name__} makes no predictions of outputs of shape "
            f"{tuple(outputs.shape)}: {error}"
        ) from error


def _check_targets(participant: Participant, what: str, dataset: Any, width: int) -> None:
    targets = labels_of(dataset)
    if targets is None or not len(targets):
        return
    problem = participant.task.target_problem(targets, width)
    if problem:
        raise ValueError(f"{participant.label}: {problem} in {what}.")
    counts = participant.task.class_counts(targets, width)
    if (
        what == "its training set"
        and counts is not None
        and participant.task.kind != "multilabel"
        and int((counts > 0).sum()) == 1
    ):
        log.warning(
            "%s: its %d training examples are all of class %d; it can learn to tell classes apart from others only.",
            participant.label, len(targets), int(counts.argmax()),
        )  # fmt: skip


def steps_by_itself(participant: Participant) -> bool:
    """True if a participant overrides the training step, which may then take batches of any form."""
    return type(participant).training_step is not Participant.training_step


def _check_batch(participant: Participant, source: TrainingSet, collate_fn: Collate | None) -> None:
    """Refuse samples that do not go into one batch, as far as the first few tell."""
    if isinstance(source.dataset, Examples):
        return
    count = min(source.batch_size, source.num_samples, TOGETHER)
    batch_of(source.dataset, range(count), collate_fn, participant.label)


def _first_batch_of(participant: Participant, what: str, dataset: Any, collate_fn: Collate | None) -> Any:
    try:
        return first_batch(dataset, collate_fn=collate_fn)
    except Exception as error:
        raise ValueError(f"{participant.label}: the first example of {what} cannot be read: {error}") from error
