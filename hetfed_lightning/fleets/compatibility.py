"""Compatibility of participants: reasons that keep one out of any fleet, and the signature that members share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from hetfed_lightning.fleets.network import roots_of
from hetfed_lightning.fleets.optimizers import kind_of
from hetfed_lightning.participants.compilation import is_wrapped
from hetfed_lightning.participants.inseparable import bound_buffers, first_keys, root_of
from hetfed_lightning.participants.participant import Participant
from hetfed_lightning.participants.torch_hooks import (
    has_hooks,
    optimizer_has_hooks,
    steps_its_own_way,
    tensor_has_hooks,
)
from hetfed_lightning.tasks import Task

if TYPE_CHECKING:
    from hetfed_lightning.local_training.local_optimization import LocalOptimization

OWN_STEP = (
    "check_training_inputs",
    "evaluate_batch",
    "features_of",
    "forward",
    "training_step",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_backward",
    "backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "log",
)
"""Methods of a participant that a fleet's step does not call; a participant that overrides one trains by itself."""


def obstacle(participant: Participant, local: LocalOptimization) -> str | None:
    """Reason why a participant cannot be trained together with others of its kind, as a clause after "since"; or None.

    Args:
        participant: Participant of a federation.
        local: Its optimizers and schedulers.
    """
    for method in OWN_STEP:
        if getattr(getattr(participant, method), "__func__", None) is not getattr(Participant, method):
            return f"{type(participant).__name__}.{method} is its own"
    if participant.privacy is not None:
        return "its gradients are made private example by example"
    if not participant.automatic_optimization:
        return "it steps its optimizers itself"
    if participant.accumulate_grad_batches > 1:
        return f"accumulate_grad_batches={participant.accumulate_grad_batches}"
    if not gives_example_losses(participant.task):
        return f"{type(participant.task).__name__} has no example_losses"
    return next(chain(_faults_of_modules(participant), faults_of_optimizers(local.optimizers, participant)), None)


def gives_example_losses(task: Task) -> bool:
    """True if the class that defines the task's ``loss`` defines its ``example_losses`` too."""
    return _owner(type(task), "example_losses") is _owner(type(task), "loss") is not Task


def keeps_up(kind: type, part: str, whole: str) -> bool:
    """True if a method is defined in the class of another that it has to agree with, or in a subclass of that class.

    Args:
        kind: Class with both methods.
        part: Name of the method that is computed for many participants at once.
        whole: Name of the method that it has to agree with.
    """
    return issubclass(_owner(kind, part), _owner(kind, whole))


def _owner(kind: type, method: str) -> type:
    return next(one for one in kind.__mro__ if method in vars(one))


def _faults_of_modules(participant: Participant) -> Iterator[str]:
    if is_wrapped(participant):
        yield "it was compiled by hand"
    if bound_buffers(participant):
        yield "it has parametrized weights with buffers"
    keys = first_keys(participant.state_dict(keep_vars=True))
    if tied := next((key for key, first in keys.items() if root_of(key) != root_of(first)), None):
        yield f"{tied} is tied to {keys[tied]}"
    for module in (module for root in roots_of(participant).values() for module in root.modules()):
        kind = type(module).__name__
        if isinstance(module, _DropoutNd) and module.p > 0:
            yield f"{kind} draws for each participant from a stream of its own"
        if isinstance(module, _NormBase) and (module.track_running_stats or module.running_mean is not None):
            yield f"{kind} keeps running statistics"
        if isinstance(module, nn.RNNBase):
            yield f"{kind} has kernels for one set of weights alone"
        if has_hooks(module):
            yield f"{kind} has hooks"
    if has_hooks(participant) or any(map(tensor_has_hooks, participant.parameters())):
        yield "it or its parameters have hooks"


def faults_of_optimizers(optimizers: Sequence[Optimizer], participant: Participant) -> Iterator[str]:
    """Reasons why a participant's optimizers cannot be stepped as rows of a stack, as clauses that follow "since".

    Args:
        optimizers: Optimizers of the participant.
        participant: Participant whose parameters they step.
    """
    if len(optimizers) != 1:
        yield f"it has {len(optimizers)} optimizers"
        return
    kind, groups = kind_of(optimizers[0]), optimizers[0].param_groups
    if kind is None:
        yield f"{type(optimizers[0]).__name__} is not among SGD, Adam and AdamW"
        return
    if len(groups) > 1:
        yield f"its optimizer has {len(groups)} parameter groups"
    if (setting := kind.obstacle(groups[0])) is not None:
        yield f"its optimizer has {setting}"
    if optimizer_has_hooks(optimizers[0]) or steps_its_own_way(optimizers[0]):
        yield "its optimizer has hooks or a step of its own"
    parameters: list[Tensor] = groups[0]["params"]
    if {id(one) for one in parameters} != {id(one) for one in participant.trainable_parameters()}:
        yield "its optimizer steps some of its parameters"
    if len({(one.dtype, one.device) for one in parameters}) > 1:
        yield "its parameters are of several dtypes or devices"
    if not all(one.is_floating_point() for one in parameters):
        yield "its parameters are complex"


def signature(participant: Participant, optimizer: Optimizer) -> str:
    """Digest of a participant, equal for all that one computation can train.

    It covers modules, settings, shapes, task and kind of optimizer.

    Args:
        participant: Participant without an :func:`obstacle`.
        optimizer: Its only optimizer.

    Returns:
        A digest, the same in every process.
    """
    group = optimizer.param_groups[0]
    order = {id(parameter): place for place, parameter in enumerate(group["params"])}
    parts: list[Any] = [participant.compile_settings, *kind_and_settings(optimizer)]
    for name, parameter in participant.named_parameters():
        held = order.get(id(parameter))
        parts.append((name, tuple(parameter.shape), str(parameter.dtype), held))
        if held is None:
            parts.append(_content(parameter))
    if at_rest := _at_rest(participant):
        parts.append(at_rest)
    for root in (*roots_of(participant).values(), participant.task):
        parts += _settings(root)
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def kind_and_settings(optimizer: Optimizer) -> list[Any]:
    """Type and settings of an optimizer that participants must share to be stepped as one."""
    return kind_and_settings_of(optimizer, optimizer.param_groups[0])


def kind_and_settings_of(optimizer: Optimizer, group: Mapping[str, Any]) -> list[Any]:
    """Type of an optimizer, and those settings of a parameter group that participants must share.

    Args:
        optimizer: Optimizer whose type counts.
        group: Settings in place of the ones in its only parameter group.
    """
    kind = kind_of(optimizer)
    parts: list[Any] = [type(optimizer).__qualname__, [str(group.get(name)) for name in (kind.equal if kind else ())]]
    if "momentum" in group:
        parts.append(group["momentum"] != 0)
    return parts


def _at_rest(participant: Participant) -> list[str]:
    """Names of modules that their owner keeps in evaluation mode."""
    return [f"{part}.{name}" for part, root in roots_of(participant).items() for name, module in root.named_modules()
            if not module.training and not isinstance(module, _DropoutNd)]  # fmt: skip


def _settings(root: nn.Module) -> Iterator[Any]:
    """Classes, plain attributes and buffers of modules: all that tells two of the same shapes apart."""
    for name, module in root.named_modules():
        plain = {
            key: value if isinstance(value, _LITERAL) else _told(value)
            for key, value in vars(module).items()
            if not key.startswith("_") and key != "training"
        }
        yield name, type(module).__module__, type(module).__qualname__, sorted(plain.items())
        for key, buffer in module.named_buffers(recurse=False):
            yield key, _content(buffer)


def _told(value: Any, depth: int = 4) -> Any:
    """Content of a plain attribute, as far as it can be read, to tell it from another of its class."""
    if isinstance(value, Tensor):  # Absent from `state_dict`, but the network may compute with it.
        return _content(value)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    inside = _inside(value) if depth else []
    return (
        (name, [part if isinstance(part, _LITERAL) else _told(part, depth - 1) for part in inside]) if inside else name
    )


_LITERAL = (bool, int, float, str, tuple, list, type(None))


def _inside(value: Any) -> list[Any]:
    """Values that a function has closed over, or that an object or a collection holds."""
    if isinstance(value, FunctionType):
        return [*(cell.cell_contents for cell in value.__closure__ or ()), *(value.__defaults__ or ())]
    if isinstance(value, Mapping):
        return [part for key in sorted(value, key=str) for part in (str(key), value[key])]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.blake2b(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, (type, nn.Module)) or not hasattr(value, "__dict__"):
        return []
    return _inside(vars(value))


def _content(tensor: Tensor) -> str:
    values = tensor.detach().to("cpu", torch.float64 if tensor.is_floating_point() else tensor.dtype).contiguous()
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=8).hexdigest()
