"""Multilayer perceptron as head: more personal capacity than a plain linear layer.

Worth it where participants share a good backbone and have different targets of it; with few examples per participant
``torch.nn.Linear`` overfits less.

Reference:
    Arivazhagan, Aggarwal, Singh & Choudhary (2019), Federated learning with personalization layers (several personal
    layers on top of a shared base).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from hetfed_lightning.heads.checks import require_features
from hetfed_lightning.layers.checks import require_dropout, require_positive
from hetfed_lightning.layers.hidden import hidden_layers


class MLPHead(nn.Module):
    """Outputs of linear layers with ReLU and dropout between them, and nothing after the last.

    Args:
        in_features: Width of the features; the backbone's ``out_features``.
        out_features: Outputs: classes, labels or regression targets.
        hidden: Widths of the hidden layers in order; empty for a plain linear layer.
        dropout: Share of hidden activations set to zero in training, in [0, 1).

    Raises:
        ValueError: If a size is below one or the dropout out of its range.
    """

    def __init__(
        self,
        in_features: int = 64,
        out_features: int = 10,
        hidden: Sequence[int] = (64,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        require_positive(owner, in_features=in_features, out_features=out_features, hidden=hidden)
        require_dropout(owner, dropout)
        self.in_features = in_features
        self.out_features = out_features
        self.hidden = hidden_layers(in_features, hidden, dropout)
        self.output = nn.Linear((in_features, *hidden)[-1], out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for a batch of features.

        Args:
            x: Shape ``(B, in_features)``.

        Returns:
            Shape ``(B, out_features)``, unbounded.

        Raises:
            ValueError: If the features have another width.
        """
        require_features(x, self.in_features, owner=type(self).__name__)
        outputs: Tensor = self.output(self.hidden(x))
        return outputs
