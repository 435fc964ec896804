"""Small residual network, normalised per sample so that it may be averaged over unlike participants.

Batch normalisation mixes the samples of a batch, and keeps running statistics of one participant's data; under label
skew both differ between participants, and the averaged network fits none of them. Group normalisation uses one sample
alone and keeps no statistics, so it is the default here. Use ``norm="batch"`` only where the participants' data are
alike, or where its buffers stay local (the default of backbone averaging).

Ours / the papers' / why: channels double and images halve from stage to stage as in He et al., but with one block per
stage by default (a federation on a CPU), 1x1 convolutions on every shortcut that changes shape (their option B), and no
pooling in the stem (small images). Groups hold at least two channels, eight groups at most, where Wu & He take 32
groups: our stages start at 16 channels, and a group of one channel on a map of one pixel would always be zero.

References:
    He, Zhang, Ren & Sun (2016), Deep residual learning for image recognition, equations 1 and 2, section 4.2. Wu & He
    (2018), Group normalization, equations 1 to 7. Hsieh, Phanishayee, Mutlu & Gibbons (2020), The non-IID data quagmire
    of decentralized machine learning.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from hetfed_lightning.backbones.images import ImageBackbone
from hetfed_lightning.layers.checks import require_positive

Norm = Literal["group", "batch", "none"]
_MOST_GROUPS = 8


def _normalisation(norm: Norm, channels: int) -> nn.Module:
    """The layer that a name stands for."""
    if norm == "group":
        # The greatest divisor of 8 that leaves two channels or more per group; one group for odd widths.
        groups = math.gcd(channels // 2, _MOST_GROUPS) if channels % 2 == 0 else 1
        return nn.GroupNorm(groups, channels)
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, added to their input, or to a 1x1 convolution of it where the shape changes.

    Args:
        in_channels: Channels of the incoming maps.
        out_channels: Channels of the outgoing maps.
        stride: 1 keeps the maps' size, 2 halves it (rounded up).
        norm: Normalisation after every convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, norm: Norm = "group") -> None:
        super().__init__()
        bias = norm == "none"  # a normalisation has its own
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=bias),
            _normalisation(norm, out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=bias),
            _normalisation(norm, out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=bias), _normalisation(norm, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps after the block.

        Args:
            x: Shape ``(B, in_channels, rows, columns)``.

        Returns:
            Shape ``(B, out_channels, ceil(rows / stride), ceil(columns / stride))``, none negative.
        """
        shortcut: Tensor = self.shortcut(x)
        residual: Tensor = self.residual(x)
        return (shortcut + residual).relu()


class ResidualBackbone(ImageBackbone):
    """Features of square images by a residual network with global average pooling.

    Args:
        width: Channels of the first stage; each further stage has twice as many and maps of half the size.
        blocks: Residual blocks per stage.
        out_features: Width of the feature vectors.
        in_channels: Channels per image, 1 for grey, 3 for colour.
        image_size: Rows and columns per image, in pixels.
        norm: Normalisation: ``"group"`` per sample, ``"batch"`` over the batch (see the module on why not),
            ``"none"``.

    Raises:
        ValueError: If a size is below one, there is no stage, or the normalisation is unknown.
    """

    def __init__(
        self,
        width: int = 16,
        blocks: Sequence[int] = (1, 1, 1),
        out_features: int = 64,
        in_channels: int = 1,
        image_size: int = 28,
        norm: Norm = "group",
    ) -> None:
        super().__init__(width, out_features, in_channels, image_size)
        owner = type(self).__name__
        require_positive(owner, blocks=blocks)
        if not blocks:
            raise ValueError(f"{owner} expected one stage or more, got blocks={blocks}: set blocks=(1,) for one")
        if norm not in get_args(Norm):
            raise ValueError(
                f"{owner} expected norm to be one of {get_args(Norm)}, got {norm!r}: set norm to one of them"
            )
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=norm == "none"),
            _normalisation(norm, width),
            nn.ReLU(),
        )
        stages = []
        channels = width
        for stage, count in enumerate(blocks):
            stride = 1 if stage == 0 else 2
            first = ResidualBlock(channels, width * 2**stage, stride, norm)
            channels = width * 2**stage
            stages.append(nn.Sequential(first, *(ResidualBlock(channels, channels, 1, norm) for _ in range(count - 1))))
        self.stages = nn.Sequential(*stages)
        self.project_mean_map = nn.Linear(channels, out_features)

    def project(self, x: Tensor) -> Tensor:
        """Projection of the mean of each map, shape ``(B, out_features)``."""
        maps: Tensor = self.stages(self.stem(x))
        features: Tensor = self.project_mean_map(maps.mean(dim=(2, 3)))
        return features
