"""Tensors of a network that mean nothing without others: tied weights, what a parametrized weight is computed from.

A weight under ``torch.nn.utils.parametrizations.orthogonal`` is ``base @ exp(A)``: ``A`` is a parameter, ``base`` a
buffer, and averages of ``A`` over different bases are no average of anything. So buffers of a parametrization go where
its parameters go, whatever is done with running statistics. A weight that is tied to a shared one changes with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from hetfed_lightning.aggregation.state import accumulation_dtype
from hetfed_lightning.participants.compilation import plain_name

_DIRECTION = re.compile(r"\.parametrizations\.[^.]+\.\d+\._[uv]$")
"""Keys of the singular vectors that ``torch.nn.utils.parametrizations.spectral_norm`` keeps."""


SHAPE = "~"
"""Begins what stands for a frozen parameter that is shared: its shape, instead of a digest of its values."""


def first_keys(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The key under which each tensor of a state stands first: its own, unless it is tied to an earlier one.

    Args:
        state: As ``state_dict(keep_vars=True)`` gives it: a tied tensor is one object.
    """
    seen: dict[int, str] = {}
    return {key: seen.setdefault(id(tensor), key) for key, tensor in state.items()}


def bound_buffers(module: nn.Module) -> dict[str, frozenset[str]]:
    """Buffers that belong to a parametrized weight, with the keys of the parameters that they belong to.

    Those below a ``ParametrizationList``, such as the ``base`` of an orthogonal weight and the vectors of a spectral
    norm, and those of the older ``torch.nn.utils.spectral_norm``.

    Args:
        module: Keys are those of its ``state_dict``.
    """
    found: dict[str, frozenset[str]] = {}
    for place, part in module.named_modules(remove_duplicate=False):
        prefix = plain_name(f"{place}." if place else "")
        if isinstance(part, ParametrizationList):
            parameters = frozenset(
                f"{prefix}{plain_name(key)}" for key, _ in part.named_parameters(remove_duplicate=False)
            )
            found |= {f"{prefix}{plain_name(key)}": parameters for key, _ in part.named_buffers(remove_duplicate=False)}
        for hook in part._forward_pre_hooks.values():
            if type(hook).__name__ == "SpectralNorm":  # Of a module of torch that is deprecated.
                name = getattr(hook, "name", "weight")
                owner = frozenset({f"{prefix}{name}_orig"})
                found |= {f"{prefix}{name}_{which}": owner for which in "uv"}
    return found


def is_direction(key: str, keys: Iterable[str]) -> bool:
    """Whether a key stands for a singular vector of a spectral norm, which has length 1.

    Args:
        key: Of a shared state.
        keys: All of that state's.
    """
    if _DIRECTION.search(key):
        return True
    stem, _, which = key.rpartition("_")
    return which in {"u", "v"} and f"{stem}_orig" in keys


def with_unit_directions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An averaged state whose singular vectors have length 1 again, as a spectral norm takes for granted.

    The mean of unit vectors is shorter than they are; the norm of the weight would seem smaller than it is.

    Args:
        state: Tensors by key.

    Returns:
        The same tensors, but for directions; a direction of length 0 stays.
    """
    found = dict(state)
    for key in [key for key in state if is_direction(key, state.keys())]:
        wide = state[key].to(accumulation_dtype(state[key]))
        length = torch.linalg.vector_norm(wide)
        if length > 0:
            found[key] = (wide / length).to(state[key].dtype)
    return found


def foundation(module: nn.Module, shared: Iterable[str], stepped: Collection[int] | None = None) -> dict[str, str]:
    """Frozen parameters that shared ones lie on and that are not shared themselves, by key, as digests of their values.

    Args:
        module: A participant.
        shared: Keys of what it averages.
        stepped: Identities of the parameters that its optimizers step; what none of them steps is frozen as well. None
            to go by ``requires_grad`` alone.

    Returns:
        Nothing where no shared parameter is trained on top of frozen ones. Of frozen parameters that are shared, and so
        are the same wherever their shapes are, the shape and dtype behind :data:`SHAPE`.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    if all(one.requires_grad and (stepped is None or id(one) in stepped) for one in parameters.values()):
        return {}
    moving = {
        key
        for key, parameter in parameters.items()
        if parameter.requires_grad and (stepped is None or id(parameter) in stepped)
    }
    shared = [key for key in shared if key in parameters]
    held = {id(parameters[key]) for key in shared}
    trained = {root_of(key) for key in shared if key in moving}
    return {
        key: f"{SHAPE}{tuple(parameter.shape)} {parameter.dtype}"[:64] if id(parameter) in held else digest(parameter)
        for key, parameter in parameters.items()
        if key not in moving and any(_lies_on(root, root_of(key)) for root in trained)
    }


def lies_on(key: str, frozen: str) -> bool:
    """Whether a participant's tensor is used after, or beside, another one, as their keys tell.

    Those of the backbone lie on one another, and on a transform; a head lies on all but the task. A head that is frozen
    is what a backbone is trained for, and nothing that it lies on.
    """
    return _lies_on(root_of(key), root_of(frozen))


def root_of(key: str) -> str:
    """The part of a participant that a key belongs to, such as ``"backbone"``."""
    return key.partition(".")[0]


def _lies_on(root: str, frozen: str) -> bool:
    above = {"head", "task", "target_transform"}
    return frozen in {root, "transform"} or (root == "head" and frozen not in above)


def digest(tensor: Tensor) -> str:
    """A short digest of a tensor's shape, dtype and values, the same on every machine; empty without memory."""
    if not has_memory(tensor):
        return ""
    whole = tensor.detach().cpu().contiguous()
    values = whole.flatten().view(torch.uint8).numpy()
    about = f"{tuple(whole.shape)} {whole.dtype}".encode()
    return hashlib.sha256(about + values.tobytes()).hexdigest()[:32]


def overlapping(state: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """The first two keys whose tensors are different objects in the same memory; None if there are none.

    Such weights look tied until one of them is moved: to a device, into a fleet, onto a loan.

    Args:
        state: As ``state_dict(keep_vars=True)`` gives it.
    """
    by_storage: dict[int, list[tuple[int, int, str]]] = {}
    for key, first in first_keys(state).items():
        tensor = state[key]
        if key == first and isinstance(tensor, Tensor) and has_memory(tensor):
            start = tensor.data_ptr()
            by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append((start, _end(tensor), key))
    for pieces in by_storage.values():
        furthest, owner = -1, ""
        for start, end, key in sorted(pieces):
            if start < furthest:
                return owner, key
            if end > furthest:
                furthest, owner = end, key
    return None


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor lies in memory that two could have in common."""
    if nn.parameter.is_lazy(tensor) or tensor.layout is not torch.strided:
        return False
    return tensor.numel() > 0 and tensor.device.type != "meta"


def _end(tensor: Tensor) -> int:
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (reach + 1) * tensor.element_size()
