"""What every backbone promises: features of a known width, and the shape of one sample it takes.

Any ``nn.Module`` with ``out_features`` and ``forward(x) -> (B, out_features)`` may serve as a participant's
backbone; this base class is only for those that ship here, so that one battery of tests can find and examine
them all.

Two rules for whoever adds one:

- **Name the last layer after the architecture** (``project_maps``, ``project_last_state``). Shared tensors
  meet by key and shape: two architectures that both called a ``(64, 64)`` matrix ``project.weight`` would be
  averaged although their features have nothing in common. A contract test compares the keys of all backbones.
- **Keep keys independent of settings without parameters** such as dropout, so that participants who differ in
  them still share.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """Maps a batch of samples to feature vectors: the part of a network that a federation may share.

    Attributes:
        out_features: Width D of the feature vectors; the head's ``in_features``.
    """

    out_features: int

    @property
    @abstractmethod
    def example_input_shape(self) -> tuple[int, ...]:
        """Shape of one sample that the backbone takes, without the batch dimension."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Features of a batch.

        Args:
            x: Shape ``(B, *sample)``, for instance ``(B, *example_input_shape)``.

        Returns:
            Shape ``(B, out_features)``.

        Raises:
            ValueError: If the shape of ``x`` does not fit the constructor's arguments.
        """
