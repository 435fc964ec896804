"""Public set as a file, the same to the bit wherever it is read."""

from __future__ import annotations

import os

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples, Inputs
from hetfed_lightning.paths import with_home

ONE = "inputs"
"""Key of inputs that are one tensor."""

BY_NAME = "inputs."
"""Prefix of the key of each of several inputs, which its name follows."""


def public_bytes(inputs: Inputs) -> bytes:
    """Content of a file of public inputs, in safetensors' format, which holds tensors and no code.

    Args:
        inputs: N examples along the first dimension; one tensor, or one per name.
    """
    named = {ONE: inputs} if isinstance(inputs, Tensor) else {f"{BY_NAME}{key}": one for key, one in inputs.items()}
    # Clones: views of one tensor cannot be saved.
    return save({key: tensor.detach().cpu().clone().contiguous() for key, tensor in named.items()})


def read_public(path: str | os.PathLike[str]) -> Examples:
    """Public set of a file of :func:`public_bytes`; NaN in it stands for a missing value.

    Args:
        path: The file.

    Raises:
        DataError: If there is no such file, it is damaged, or it holds something else.
    """
    path = with_home(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; it holds the public set.")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: expected a public set in safetensors' format: {error}") from error
    if set(tensors) == {ONE}:
        return Examples(tensors[ONE], missing=True)
    if not tensors or not all(key.startswith(BY_NAME) for key in tensors):
        found = ", ".join(map(repr, sorted(tensors)[:10])) or "nothing"
        raise DataError(f"{path}: expected {ONE!r}, or inputs by name such as '{BY_NAME}image', found {found}.")
    return Examples({key.removeprefix(BY_NAME): tensor for key, tensor in tensors.items()}, missing=True)
