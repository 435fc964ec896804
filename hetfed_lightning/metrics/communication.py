"""Size of a message: bytes of the tensors in it, without headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor


def payload_bytes(payload: Tensor | Mapping[str, Tensor] | Iterable[Tensor]) -> int:
    """Bytes of the elements of a state, of several tensors or of one.

    A view counts its own elements, not the storage behind it; two keys that share a tensor count twice. This is the
    size that a serializer of values sends.

    Args:
        payload: A state, some tensors or a tensor, of any shapes and dtypes.

    Returns:
        Sum over tensors of the number of elements times the bytes of one; 0 if there is none.
    """
    if isinstance(payload, Tensor):
        return payload.numel() * payload.element_size()
    tensors = payload.values() if isinstance(payload, Mapping) else payload
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
