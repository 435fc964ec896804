"""A small transformer encoder over series, or over the rows of an image.

Ours / the papers' / why: normalisation before each sublayer instead of after it, since that trains without
warm-up (Xiong et al.), learned positions and the mean over time instead of a class token (one parameter less
to average). Layer normalisation looks at one time step alone and so survives averaging over unlike
participants.

The layers are built one by one: ``nn.TransformerEncoder`` copies a single layer, weights included, so that
all its layers start equal (pytorch issue 86274), and warns that it cannot use nested tensors when
normalisation comes first.

References:
    Vaswani et al. (2017), Attention is all you need, section 3.
    Xiong et al. (2020), On layer normalization in the transformer architecture, figure 1b.
"""

import torch
from torch import Tensor, nn

from hetfed_lightning.backbones.backbone import Backbone
from hetfed_lightning.backbones.sequences import as_sequence
from hetfed_lightning.layers.checks import require_dropout, require_positive, shape_error

_POSITION_SPREAD = 0.02  # standard deviation at the start, small beside the embedded steps


class TransformerBackbone(Backbone):
    """Features of series by self-attention over all time steps, averaged over time.

    Args:
        out_features: Width of the feature vectors.
        input_size: Features per time step; for images, channels times columns.
        width: Width of the encoder, a multiple of ``heads``.
        heads: Attention heads per layer.
        layers: Encoder layers.
        feedforward: Width of the hidden layer within each encoder layer.
        dropout: Share of activations set to zero in training, in [0, 1).
        max_length: Longest series, in time steps; every step has a learned position of ``width`` numbers.

    Raises:
        ValueError: If a size is below one, the heads do not divide the width, or the dropout is out of its
            range.
    """

    def __init__(
        self,
        out_features: int = 64,
        input_size: int = 28,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        feedforward: int = 128,
        dropout: float = 0.0,
        max_length: int = 512,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        require_positive(owner, out_features=out_features, input_size=input_size, width=width, heads=heads)
        require_positive(owner, layers=layers, feedforward=feedforward, max_length=max_length)
        require_dropout(owner, dropout)
        if width % heads:
            raise ValueError(
                f"{owner} expected width to be a multiple of heads, got width={width} and heads={heads}: "
                f"set width={width - width % heads + heads}"
            )
        self.out_features = out_features
        self.input_size = input_size
        self.max_length = max_length
        self.embed = nn.Linear(input_size, width)
        self.positions = nn.Parameter(_POSITION_SPREAD * torch.randn(max_length, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)  # nothing before it has normalised the last layer's sum
        self.project_mean_step = nn.Linear(width, out_features)

    @property
    def example_input_shape(self) -> tuple[int, ...]:
        """``(time, input_size)``: as many steps as features (a square image), ``max_length`` at most."""
        return (min(self.input_size, self.max_length), self.input_size)

    def forward(self, x: Tensor) -> Tensor:
        """Features of a batch of series, or of images read row by row.

        Args:
            x: Shape ``(B, time, input_size)``, or ``(B, channels, rows, columns)`` with
                ``channels * columns = input_size``; at most ``max_length`` steps or rows.

        Returns:
            Shape ``(B, out_features)``, none of them negative.

        Raises:
            ValueError: If the shape is another one, or the series are too long.
        """
        owner = type(self).__name__
        sequence = as_sequence(x, self.input_size, owner=owner)
        length = sequence.shape[1]
        if length > self.max_length:
            raise shape_error(owner, f"at most {self.max_length} time steps", x, f"set max_length={length}")
        steps: Tensor = self.embed(sequence) + self.positions[:length]
        for layer in self.layers:
            steps = layer(steps)
        features: Tensor = self.project_mean_step(self.norm(steps).mean(dim=1))
        return features.relu()
