"""Multilayer perceptron: for tables, and the plainest baseline for everything else.

It has no notion of neighbourhoods in space or time; on images and series of any size the other families learn more from
fewer parameters.

References:
    Rumelhart, Hinton & Williams (1986), Learning representations by back-propagating errors. Srivastava et al. (2014),
    Dropout: a simple way to prevent neural networks from overfitting, section 4.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from hetfed_lightning.backbones.backbone import Backbone
from hetfed_lightning.layers.checks import require_dropout, require_positive, shape_error
from hetfed_lightning.layers.hidden import hidden_layers


class MLPBackbone(Backbone):
    """Features of anything that can be flattened, by linear layers with ReLU and dropout.

    Args:
        in_features: Numbers per sample once flattened: 784 for an image of 28 x 28.
        hidden: Widths of the hidden layers in order; empty for a single linear layer to ``out_features``.
        out_features: Width of the feature vectors.
        dropout: Share of hidden activations set to zero in training, in [0, 1).

    Raises:
        ValueError: If a size is below one or the dropout out of its range.
    """

    def __init__(
        self,
        in_features: int = 784,
        hidden: Sequence[int] = (128,),
        out_features: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        require_positive(owner, in_features=in_features, hidden=hidden, out_features=out_features)
        require_dropout(owner, dropout)
        self.in_features = in_features
        self.out_features = out_features
        self.hidden = hidden_layers(in_features, hidden, dropout)
        self.project_hidden = nn.Linear((in_features, *hidden)[-1], out_features)

    @property
    def example_input_shape(self) -> tuple[int, ...]:
        """``(in_features,)``."""
        return (self.in_features,)

    def forward(self, x: Tensor) -> Tensor:
        """Features of a batch of samples of any shape.

        Args:
            x: Shape ``(B, ...)`` with ``in_features`` numbers per sample.

        Returns:
            Shape ``(B, out_features)``, none of them negative.

        Raises:
            ValueError: If a sample holds another count of numbers, or there is no batch dimension.
        """
        expected = f"a batch of samples with {self.in_features} numbers each, such as (batch, {self.in_features})"
        owner = type(self).__name__
        if x.dim() <= 1:
            raise shape_error(owner, expected, x, "add the missing dimension (x.unsqueeze(0) for a batch of one)")
        if x.shape[1:].numel() != self.in_features:
            raise shape_error(owner, expected, x, f"set in_features={x.shape[1:].numel()}")
        features: Tensor = self.project_hidden(self.hidden(x.flatten(1)))
        return features.relu()
