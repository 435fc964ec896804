"""Tensors that must travel together: tied weights, and the tensors of which a parametrized weight is computed.

A weight under ``torch.nn.utils.parametrizations.orthogonal`` is ``base @ exp(A)``: ``A`` is a parameter, ``base`` a
buffer. An average of ``A`` over different bases has no meaning. So buffers of a parametrization are averaged with its
parameters, whatever is set for running statistics. A weight that is tied to a shared one changes with it.
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
"""Prefix of the text that stands for a shared frozen parameter: its shape, instead of a digest of its values."""


def first_keys(state: Mapping[str, Tensor]) -> dict[str, str]:
    """First key of each tensor of a state, by key: the key itself unless the tensor is tied to an earlier one.

    Args:
        state: Tensors of ``state_dict(keep_vars=True)``, where tied tensors are one object.
    """
    seen: dict[int, str] = {}
    return {key: seen.setdefault(id(tensor), key) for key, tensor in state.items()}


def bound_buffers(module: nn.Module) -> dict[str, frozenset[str]]:
    """Buffers of parametrized weights by key, each with the keys of the parameters that it belongs to.

    They are the buffers below a ``ParametrizationList``, such as the ``base`` of an orthogonal weight or the vectors of
    a spectral norm, and those of the older ``torch.nn.utils.spectral_norm``.

    Args:
        module: Module whose ``state_dict`` gives the keys.
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
    """True if a key is a singular vector of a spectral norm, which has length 1.

    Args:
        key: Key of a shared state.
        keys: All keys of that state.
    """
    if _DIRECTION.search(key):
        return True
    stem, _, which = key.rpartition("_")
    return which in {"u", "v"} and f"{stem}_orig" in keys


def with_unit_directions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Averaged state whose singular vectors have length 1 again, as a spectral norm requires.

    The mean of unit vectors is shorter than 1, and would make the weight's norm appear too small.

    Args:
        state: Tensors by key, of any shapes.

    Returns:
        Tensors of the same keys, shapes and dtypes; a vector of length 0 stays.
    """
    found = dict(state)
    for key in [key for key in state if is_direction(key, state.keys())]:
        wide = state[key].to(accumulation_dtype(state[key]))
        length = torch.linalg.vector_norm(wide)
        if length > 0:
            found[key] = (wide / length).to(state[key].dtype)
    return found


def foundation(module: nn.Module, shared: Iterable[str], stepped: Collection[int] | None = None) -> dict[str, str]:
    """Digests of unshared frozen parameters below trained shared ones, by key.

    Args:
        module: Participant.
        shared: Keys of its averaged tensors.
        stepped: Identities of the parameters in its optimizers; all others count as frozen. None to go by
            ``requires_grad`` alone.

    Returns:
        Digests by key; empty if no trained shared parameter is above a frozen one. A frozen parameter that is shared
        itself is given by shape and dtype behind :data:`SHAPE`.
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
    """True if a participant's tensor is used after or beside a frozen one, judged by their keys.

    Tensors of the backbone are above each other and above a transform; those of a head are above all but the task. A
    frozen head is below nothing, although the backbone is trained for it.

    Args:
        key: Key of the upper tensor.
        frozen: Key of the frozen tensor.
    """
    return _lies_on(root_of(key), root_of(frozen))


def root_of(key: str) -> str:
    """Part of a participant to which a key belongs, such as ``"backbone"``."""
    return key.partition(".")[0]


def _lies_on(root: str, frozen: str) -> bool:
    above = {"head", "task", "target_transform"}
    return frozen in {root, "transform"} or (root == "head" and frozen not in above)


def digest(tensor: Tensor) -> str:
    """Short digest of a tensor's shape, dtype and values, equal on every machine; empty for a tensor without memory."""
    if not has_memory(tensor):
        return ""
    whole = tensor.detach().cpu().contiguous()
    values = whole.flatten().view(torch.uint8).numpy()
    about = f"{tuple(whole.shape)} {whole.dtype}".encode()
    return hashlib.sha256(about + values.tobytes()).hexdigest()[:32]


def overlapping(state: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """First two keys whose tensors are different objects in the same memory; None if there are none.

    Such weights appear tied until one of them is moved: to a device, into a fleet, or into shared storage.

    Args:
        state: Tensors of ``state_dict(keep_vars=True)``.
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
    """True if a tensor, of any shape, has storage, which two tensors could have in common."""
    if nn.parameter.is_lazy(tensor) or tensor.layout is not torch.strided:
        return False
    return tensor.numel() > 0 and tensor.device.type != "meta"


def _end(tensor: Tensor) -> int:
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (reach + 1) * tensor.element_size()
