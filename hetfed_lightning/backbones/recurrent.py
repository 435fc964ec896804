"""A recurrent network over series, or over the rows of an image: few parameters, any length.

``torch.func.vmap`` refuses PyTorch's recurrent cells, so participants of this family train one after the
other; take ``Conv1dBackbone`` or ``TransformerBackbone`` where many of them must be trained as one fleet.

References:
    Hochreiter & Schmidhuber (1997), Long short-term memory.
    Cho et al. (2014), Learning phrase representations using RNN encoder-decoder, section 2.3 (gated units).
    Le, Jaitly & Hinton (2015), A simple way to initialize recurrent networks of rectified linear units
    (images as sequences; they read pixel by pixel, ours row by row, which is 28 steps instead of 784).
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hetfed_lightning.backbones.backbone import Backbone
from hetfed_lightning.backbones.sequences import as_sequence
from hetfed_lightning.layers.checks import require_positive

Cell = Literal["gru", "lstm"]
_CELLS: dict[str, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class RecurrentBackbone(Backbone):
    """Features of series by the last hidden state of a gated recurrent network.

    Args:
        out_features: Width of the feature vectors.
        input_size: Features per time step; for images, channels times columns.
        hidden_size: Width of the hidden state, per direction.
        num_layers: Recurrent layers, one on top of the other.
        cell: ``"gru"`` (gated recurrent unit) or ``"lstm"`` (long short-term memory, a third larger).
        bidirectional: True for a second network that reads backwards; its last state is the one at the first step.

    Raises:
        ValueError: If a size is below one or the cell is unknown.
    """

    def __init__(
        self,
        out_features: int = 64,
        input_size: int = 28,
        hidden_size: int = 64,
        num_layers: int = 1,
        cell: Cell = "gru",
        *,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        require_positive(owner, out_features=out_features, input_size=input_size)
        require_positive(owner, hidden_size=hidden_size, num_layers=num_layers)
        if cell not in _CELLS:
            raise ValueError(
                f"{owner} expected cell to be one of {get_args(Cell)}, got {cell!r}: set cell to one of them"
            )
        self.out_features = out_features
        self.input_size = input_size
        self.cell = cell
        self.directions = 2 if bidirectional else 1
        recurrent = _CELLS[cell](input_size, hidden_size, num_layers, batch_first=True, bidirectional=bidirectional)
        # Keys carry the cell's name: a GRU's projection has the shape of an LSTM's, but not its meaning.
        self.recurrent = nn.ModuleDict({cell: recurrent})
        self.project_last_state = nn.ModuleDict({cell: nn.Linear(self.directions * hidden_size, out_features)})

    @property
    def example_input_shape(self) -> tuple[int, ...]:
        """``(input_size, input_size)``: as many steps as features, a square image read row by row."""
        return (self.input_size, self.input_size)

    def forward(self, x: Tensor) -> Tensor:
        """Features of a batch of series, or of images read row by row.

        Args:
            x: Shape ``(B, time, input_size)``, or ``(B, channels, rows, columns)`` with
                ``channels * columns = input_size``.

        Returns:
            Shape ``(B, out_features)``, none of them negative.

        Raises:
            ValueError: If the shape is another one.
        """
        sequence = as_sequence(x, self.input_size, owner=type(self).__name__)
        _, state = self.recurrent[self.cell](sequence)
        hidden: Tensor = state[0] if self.cell == "lstm" else state
        # hidden is (layers * directions, B, hidden_size), the last layer's directions at the end
        last = torch.cat(hidden[-self.directions :].unbind(), dim=-1)
        features: Tensor = self.project_last_state[self.cell](last)
        return features.relu()
