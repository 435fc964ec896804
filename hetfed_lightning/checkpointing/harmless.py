"""Refusal of checkpoints whose loading could run code: only files on this machine that name no function may be loaded.

Lightning reads a checkpoint behind an address as a pickle, which may run code, unless ``weights_only`` is set.
Hyperparameters with an ``_instantiator`` name the function that makes the module, even if only weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from hetfed_lightning.checkpointing.reading import (
    UnreadableCheckpointError,
    check_form,
    read_checkpoint,
    refuse_address,
)

_INSTANTIATOR = "_instantiator"


def check_harmless(path: Any, *, tensors: bool = False) -> None:
    """Refuse a checkpoint whose loading could run code.

    Args:
        path: A file, or one that is open.
        tensors: True to read the tensors too, which may be damaged where the rest is not.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is an address, is damaged, holds more than weights and plain data, or names a function that
            makes the module.
    """
    if hasattr(path, "read"):
        checkpoint = read_checkpoint(path)
        path.seek(0)
    else:
        checkpoint = read_checkpoint(path) if tensors else read_checkpoint(path, map_location="meta", mmap=True)
    check_form(checkpoint, path)
    for key, part in checkpoint.items():
        if isinstance(part, Mapping) and _INSTANTIATOR in part:
            raise UnreadableCheckpointError(
                path, ValueError(f"{key} names a function that is to be called, {part[_INSTANTIATOR]!r}")
            )


class LoadsHarmlessly:
    """Mixin of classes with ``load_from_checkpoint``, so that it runs no code from the file."""

    @classmethod
    def load_from_checkpoint(
        cls, checkpoint_path: Any, map_location: Any = None, *, weights_only: bool | None = True, **kwargs: Any
    ) -> Self:
        """Module made anew from a checkpoint; no code in the file is run.

        Args:
            checkpoint_path: A file on this machine, or one that is open.
            map_location: Device of the weights, as for ``torch.load``.
            weights_only: False loads more than weights and plain data, which may run code: for files of your own.
            kwargs: Arguments of the constructor as they were (``participants`` of a federation), and ``strict``.

        Raises:
            FileNotFoundError: If there is no such file.
            TypeError: If ``hparams_file`` is given, which may name functions too.
            ValueError: If the path is an address, or the file is damaged, holds more than it may, or is of another
                federation.
        """
        if kwargs.pop("hparams_file", None) is not None:
            raise TypeError("load_from_checkpoint(hparams_file=...): give the arguments of the constructor themselves.")
        refuse_address(checkpoint_path)
        if weights_only is not False:
            check_harmless(checkpoint_path, tensors=True)
        made: Self = super().load_from_checkpoint(  # type: ignore[misc]
            checkpoint_path, map_location, weights_only=weights_only is not False, **kwargs
        )
        return made
