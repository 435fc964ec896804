"""Checks of settings that would void DP-SGD, each refused with its reason before the first step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, Precision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hetfed_lightning.batches import split_batch
from hetfed_lightning.distillation import ClassPriorWeighted
from hetfed_lightning.fleets.compatibility import OWN_STEP, gives_example_losses
from hetfed_lightning.fleets.contexts import layouts
from hetfed_lightning.layers import Fittable
from hetfed_lightning.local_training.local_step import shaped_loss
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.methods.method import Method
from hetfed_lightning.modes import modes_of, restore
from hetfed_lightning.participants.compilation import is_wrapped
from hetfed_lightning.participants.first_batch import as_trained, first_batch
from hetfed_lightning.participants.participant import Participant
from hetfed_lightning.privacy import PrivacyAccount
from hetfed_lightning.privacy.dpsgd import PerExampleGradients, refused_layers
from hetfed_lightning.seeding import streams_kept

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hetfed_lightning.federation_view import FederationView

TRIED = 4
"""Number of examples whose gradients are compared, in a batch and alone."""


def check_privacy(federation: FederationView) -> None:
    """Refuse settings under which the noise does not hide one example.

    Raises:
        ValueError: If there is one; names the participant, the finding and the remedy.
    """
    private = {name: one for name, one in federation.members().items() if one.privacy is not None}
    if not private:
        return
    for participant in private.values():
        fault = next(_faults(federation, participant), None)
        if fault is not None:
            raise ValueError(f"{participant.label}: privacy=DPSGD(...) is not possible here: {fault}")


def _faults(federation: FederationView, participant: Participant) -> Iterator[str]:
    yield from _faults_of_run(federation)
    yield from _faults_of_steps(federation, participant)
    yield from _faults_of_network(participant)
    if any(isinstance(one, Fittable) for one in (participant.transform, participant.target_transform)):
        yield (
            "its transform is fitted to all of its data, without noise. Take one with constants known beforehand, such "
            "as the range of a sensor."
        )
    if participant.task.wants_fit:
        yield "its task weighs classes by how often its data has them, without noise. Leave class_weights out."
    if participant.own_prior:
        yield "own_prior weighs the class shares of its data, without noise. Leave it out."
    if not gives_example_losses(participant.task):
        yield f"{type(participant.task).__name__} has no loss by example. Give it example_losses."


def _faults_of_run(federation: FederationView) -> Iterator[str]:
    trainer = federation.trainer
    if trainer.world_size > 1:
        yield "its steps are accounted for in one process. Use devices=1."
    if type(trainer.precision_plugin) not in {Precision, DoublePrecision}:
        yield f"precision {trainer.precision_plugin.precision} rounds gradients before they are clipped. Use '32-true'."
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # the Trainer sets it where no checker looks
        if getattr(callback.on_after_backward, "__func__", None) is not L.Callback.on_after_backward:
            yield (
                f"{type(callback).__name__}.on_after_backward would see its gradients without noise, and what it does "
                "to them would be lost. Use on_before_optimizer_step, which sees them with noise."
            )
        if isinstance(callback, EnsembleDistillation):
            if callback.mode == "mixed":
                yield "EnsembleDistillation(mode='mixed') adds to its loss what is no mean over examples. Use 'phase'."
            if isinstance(callback.ensemble, ClassPriorWeighted):
                yield "ClassPriorWeighted tells how often its data has each class. Use MeanProbabilities."


def _faults_of_steps(federation: FederationView, participant: Participant) -> Iterator[str]:
    for method in OWN_STEP:
        if getattr(getattr(participant, method), "__func__", None) is not getattr(Participant, method):
            yield f"{type(participant).__name__}.{method} is its own, and what it does with examples is not known."
    if not participant.automatic_optimization:
        yield "it steps its optimizers itself. Use automatic optimization."
    if participant.accumulate_grad_batches > 1:
        yield "accumulate_grad_batches: every batch is a step that is accounted for. Raise batch_size instead."
    if participant.compile_settings is not None or is_wrapped(participant):
        yield "compile: a compiled backbone does not hand out gradients by example. Leave it out."
    if any(one.follows_metric for one in federation.local[participant.name or ""].schedules):
        yield "its scheduler follows a metric without noise. Take one that follows rounds or steps."


def _faults_of_network(participant: Participant) -> Iterator[str]:
    inside = {id(one) for part in (participant.backbone, participant.head) for one in part.parameters()}
    for key, parameter in participant.named_parameters():
        if parameter.requires_grad and id(parameter) not in inside:
            yield f"{key} is trained and lies in neither backbone nor head. Put it into one of them."
    for key, module in participant.named_modules():
        if isinstance(module, _BatchNorm):
            yield (
                f"{key} ({type(module).__name__}) mixes the examples of a batch and keeps statistics of them. Use "
                "GroupNorm or LayerNorm."
            )
    for line in refused_layers(participant.backbone, participant.head):
        yield f"Opacus refuses a layer: {line}"


def check_gradients(federation: FederationView) -> None:
    """Compare Opacus' gradients of examples in a batch with the gradient of each alone.

    Raises:
        ValueError: If they differ: something in the network or the loss mixes examples.
    """
    for name, participant in federation.members().items():
        if participant.privacy is None:
            continue
        data = federation.federated_data
        batch = first_batch(data.source(name).dataset, TRIED, data.collate_fn)
        inputs, target = split_batch(participant.on_after_batch_transfer(as_trained(participant, batch), 0))
        _check_weights(participant, participant(inputs), data.train_targets(name))
        modes = modes_of([participant])
        try:
            fault = _mixes(participant, inputs, target, partial(_task_loss, participant))
        except Exception as error:
            error.add_note(f"{participant.label}: gradients by example, which privacy=DPSGD(...) needs")
            raise
        finally:
            restore(modes)
            participant.zero_grad()
        if fault is not None:
            raise ValueError(
                f"{participant.label}: privacy=DPSGD(...) is not possible here: the gradient of an example depends on "
                f"the others in its batch ({fault}). Look for layers that mix examples, and for a loss that is no mean."
            )


def _check_weights(participant: Participant, outputs: Tensor, targets: Tensor) -> None:
    """Refuse a loss that divides by the weights of the whole batch."""
    zeros = outputs.detach().new_zeros(len(targets), *outputs.shape[1:])
    _, weights = participant.task.example_losses(zeros, targets.to(outputs.device))
    if not torch.equal(weights, torch.ones_like(weights)):
        raise ValueError(
            f"{participant.label}: privacy=DPSGD(...) is not possible here: {type(participant.task).__name__} weighs "
            "examples and divides by the weights of the whole batch, on which every gradient then depends. Leave out "
            "class_weights."
        )


def check_shaped_losses(federation: FederationView) -> None:
    """Compare gradients of examples in a batch and alone, for losses changed by methods, as a round opens.

    Once for each layout of a participant's contexts, since methods have received nothing before the first round.

    Raises:
        ValueError: If the gradient of an example depends on others.
    """
    for name in federation.trained_here(federation.current_round):
        check_shaped_losses_of(federation, name)


def check_shaped_losses_of(federation: FederationView, name: str) -> None:
    """Compare one participant's gradients of examples in a batch and alone, for losses changed by methods.

    Args:
        federation: The federation, in a round.
        name: Name of the participant.

    Raises:
        ValueError: If the gradient of an example depends on others.
    """
    participant, private = federation[name], federation.local[name].private
    if private is None or not federation.shaping or (layout := _layout_of(federation, participant)) in private.checked:
        return
    private.checked.add(layout)
    data = federation.federated_data
    batch = first_batch(data.source(name).dataset, TRIED, data.collate_fn)
    modes = modes_of([participant])
    with streams_kept(federation.device):
        inputs, target = split_batch(participant.on_after_batch_transfer(as_trained(participant, batch), 0))
        try:
            fault = _mixes(participant, inputs, target, partial(shaped_loss, federation, participant))
        finally:
            restore(modes)
            participant.zero_grad()
    if fault is not None:
        titles = ", ".join(type(callback).__name__ for callback in federation.shaping)
        raise ValueError(
            f"{participant.label}: privacy=DPSGD(...) is not possible beside {titles}: the gradient of an "
            f"example's loss depends on the others in its batch ({fault}). Write an example_loss whose result for "
            "an example depends on that example alone, or leave out one of the two."
        )


def _layout_of(federation: FederationView, participant: Participant) -> Hashable:
    methods = [one for one in federation.shaping if isinstance(one, Method)]
    return tuple(layouts([[one.context_of(federation, participant)] for one in methods]))


def _task_loss(participant: Participant, inputs: Any, target: Tensor) -> Tensor:
    return participant.task.loss(participant(inputs), target)


def _mixes(participant: Participant, inputs: Any, target: Tensor, loss: Callable[[Any, Tensor], Tensor]) -> str | None:
    participant.train()
    for module in participant.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()  # It draws other numbers for other shapes.
    parameters = participant.trainable_parameters()
    collecting = PerExampleGradients(participant.backbone, participant.head)
    with collecting.attached():
        loss(inputs, target).backward()
        together = collecting.of(parameters)
    for place in range(len(target)):
        participant.zero_grad()
        one = _picked(inputs, place)
        loss(one, target[place : place + 1]).backward()
        for parameter, found in zip(parameters, together, strict=True):
            alone = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if not torch.allclose(found[place], alone, rtol=1e-3, atol=1e-5 + 1e-3 * float(alone.abs().max())):
                return f"by {float((found[place] - alone).abs().max()):.3g}"
    return None


def _picked(inputs: Any, place: int) -> Any:
    if isinstance(inputs, dict):
        return {key: value[place : place + 1] for key, value in inputs.items()}
    return inputs[place : place + 1]


def take_up_accounts(federation: FederationView, saved: Mapping[str, Any]) -> None:
    """Load the privacy accounts of a checkpoint.

    Args:
        federation: The federation before training.
        saved: Entries of the federation in the checkpoint; empty without one.

    Raises:
        ValueError: If a private participant's steps in the checkpoint were not private.
    """
    for name, participant in federation.members().items():
        if participant.privacy is None or not saved:
            continue
        accounts = saved.get("privacy", {})
        if name not in accounts and saved["steps"].get(name, 0):
            raise ValueError(
                f"{participant.label}: it was trained without privacy in the checkpoint, and noise from here on hides "
                "nothing of that. Start a new run without ckpt_path."
            )
        # Releases after the checkpoint was made stay in the account: they cannot be taken back.
        participant.ledger = PrivacyAccount(accounts.get(name, [])).at_least(participant.ledger)
