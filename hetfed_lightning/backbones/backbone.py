"""Backbone: features of a known width from samples of a known shape.

Any ``nn.Module`` with ``out_features`` and ``forward(x) -> (B, out_features)`` may serve as a participant's backbone;
this base class is only for those of this package, so that one battery of tests can find and examine them all.

Two rules for a new one:

- **Name the last layer after the architecture** (``project_maps``, ``project_last_state``). Shared tensors meet by key
  and shape: two architectures that both called a ``(64, 64)`` matrix ``project.weight`` would be averaged although
  their features have nothing in common. A contract test compares the keys of all backbones.
- **Keep keys independent of settings without parameters** such as dropout, so that participants with different values
  of them still share.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """Features of a batch of samples: the part of a network that a federation may share.

    A subclass sets ``out_features`` in its constructor and overrides ``example_input_shape`` and ``forward``. All its
    constructor's arguments have defaults, since the contract tests construct it without arguments.

    Attributes:
        out_features: Width D of the feature vectors; the head's ``in_features``.
    """

    out_features: int

    @property
    @abstractmethod
    def example_input_shape(self) -> tuple[int, ...]:
        """Shape of one sample that the backbone takes, without the batch dimension.

        It fits the arguments of the constructor: ``forward`` accepts ``torch.zeros(B, *example_input_shape)``.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Features of a batch, shape ``(B, out_features)``; called in every training step and every evaluation.

        An override keeps examples independent and raises on a wrong shape before any arithmetic, so that the message
        names the argument to change.

        Args:
            x: Shape ``(B, *sample)``, for instance ``(B, *example_input_shape)``.

        Returns:
            Shape ``(B, out_features)``.

        Raises:
            ValueError: If the shape of ``x`` does not fit the constructor's arguments.
        """
