"""Convolutions over time: for series of any length whose patterns matter more than their position in time.

Ours / the paper's / why: layers of convolution and ReLU under a global pooling, as in the fully convolutional network
of Wang et al., but without batch normalisation (its statistics do not survive averaging over unlike participants), with
pooling by two between layers (each doubles the stretch of time that a feature sees) and with the maximum next to the
mean over time (the mean measures the amount of a pattern, the maximum whether it occurs at all).

Reference:
    Wang, Yan & Oates (2017), Time series classification from scratch with deep neural networks: a strong baseline,
    section II-B.
"""

import torch
from torch import Tensor, nn

from hetfed_lightning.backbones.backbone import Backbone
from hetfed_lightning.layers.checks import require_positive, shape_error

_EXAMPLE_STEPS = 64


class Conv1dBackbone(Backbone):
    """Features of series by convolutions over time and global mean and maximum pooling.

    Args:
        in_features: Channels per time step, for instance 3 for an accelerometer.
        width: Channels of every convolution.
        kernel_size: Time steps that a convolution sees, an odd count so that it looks as far back as ahead.
        layers: Convolutions; between two of them time is halved, so series need ``2 ** (layers - 1)`` steps.
        out_features: Width of the feature vectors.

    Raises:
        ValueError: If a size is below one, or the kernel's is even.
    """

    def __init__(
        self,
        in_features: int = 1,
        width: int = 32,
        kernel_size: int = 5,
        layers: int = 2,
        out_features: int = 64,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        require_positive(owner, in_features=in_features, width=width, kernel_size=kernel_size)
        require_positive(owner, layers=layers, out_features=out_features)
        if kernel_size % 2 == 0:
            raise ValueError(
                f"{owner} expected an odd kernel_size, got {kernel_size}: set kernel_size={kernel_size - 1} "
                f"or kernel_size={kernel_size + 1}"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.shortest = 2 ** (layers - 1)
        modules: list[nn.Module] = []
        for layer in range(layers):
            channels = in_features if layer == 0 else width
            modules += [
                nn.Conv1d(channels, width, kernel_size, padding=kernel_size // 2),
                nn.ReLU(),
                nn.MaxPool1d(2),
            ]
        del modules[-1]  # the global pooling stands where the last one would
        self.series_convolutions = nn.Sequential(*modules)
        self.project_pooled_series = nn.Linear(2 * width, out_features)

    @property
    def example_input_shape(self) -> tuple[int, ...]:
        """``(time, in_features)``, with 64 steps or as many as the layers need."""
        return (max(_EXAMPLE_STEPS, self.shortest), self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Features of a batch of series.

        Args:
            x: Shape ``(B, time, in_features)``.

        Returns:
            Shape ``(B, out_features)``, none of them negative.

        Raises:
            ValueError: If the shape is another one, or the series are too short for the layers.
        """
        self._require_series(x)
        maps: Tensor = self.series_convolutions(x.transpose(1, 2))
        features: Tensor = self.project_pooled_series(torch.cat([maps.mean(dim=2), maps.amax(dim=2)], dim=1))
        return features.relu()

    def _require_series(self, x: Tensor) -> None:
        owner = type(self).__name__
        expected = f"series of shape (batch, time, {self.in_features}) with {self.shortest} time steps or more"
        if x.dim() != 3:
            change = "add the missing dimension (x.unsqueeze(-1) for single channels); images are not for it"
            raise shape_error(owner, expected, x, change)
        if x.shape[2] != self.in_features:
            raise shape_error(owner, expected, x, f"set in_features={x.shape[2]}")
        if x.shape[1] < self.shortest:
            raise shape_error(owner, expected, x, "pad the series or reduce layers")
