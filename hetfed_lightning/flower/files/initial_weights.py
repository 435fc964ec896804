"""Initial weights as a file: a site begins with those that a run in one process would have drawn."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.participants.participant import Participant

START = "start.safetensors"


def start_bytes(participant: Participant) -> bytes:
    """Content of a file with a participant's state: tensors of its parameters' and buffers' shapes, and no code.

    Args:
        participant: Participant as it was made, before anything is fitted to data.
    """
    # Clones: tensors that share memory, as tied weights do, cannot be saved.
    return save({key: tensor.detach().cpu().clone().contiguous() for key, tensor in _tensors(participant).items()})


def load_start(participant: Participant, path: Path) -> None:
    """Load the weights of a file into a participant.

    Args:
        participant: Participant whose keys, shapes and dtypes the file has to have.
        path: The file.

    Raises:
        ConfigError: If the file is damaged, or is another participant's.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: expected weights in safetensors' format: {error}. Copy the file again.") from error
    own = _tensors(participant)
    for key in sorted(own.keys() ^ found.keys()):
        where = "the file has it and the participant has not" if key in found else "the file lacks it"
        raise ConfigError(f"{path}: {key!r}: {where}; the model beside it was changed after the file was written.")
    for key, tensor in found.items():
        if tensor.shape != own[key].shape or tensor.dtype != own[key].dtype:
            raise ConfigError(
                f"{path}: {key!r}: expected shape {tuple(own[key].shape)} and {own[key].dtype}, found "
                f"{tuple(tensor.shape)} and {tensor.dtype}; the model beside it was changed after the file was written."
            )
    participant.load_state_dict(found, strict=False)  # The file holds tensors alone.


def _tensors(participant: Participant) -> dict[str, Tensor]:
    return {key: one for key, one in participant.state_dict().items() if isinstance(one, Tensor)}
