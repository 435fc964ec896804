"""Series and images as sequences: an image is the series of its rows, from top to bottom.

By this a recurrent network and a transformer work in the same federation as a convolutional one, on the same data.
"""

from torch import Tensor

from hetfed_lightning.layers.checks import shape_error


def as_sequence(x: Tensor, input_size: int, *, owner: str = "as_sequence") -> Tensor:
    """Sequences of a batch of series, or of images read row by row, shape ``(B, time, input_size)``.

    Args:
        x: A batch of series ``(B, time, input_size)``, which includes images without a channel dimension ``(B, rows,
            columns)``, or a batch of images ``(B, channels, rows, columns)`` with ``channels * columns = input_size``:
            a step then holds one row of every channel.
        input_size: Features per time step.
        owner: Name of the class that reads, for the message.

    Returns:
        Shape ``(B, time, input_size)``; a view of ``x`` where that is possible.

    Raises:
        ValueError: If the shape is another one, or there is no time step.
    """
    expected = (
        f"series of shape (batch, time, {input_size}) or images of shape (batch, channels, rows, columns) "
        f"with channels * columns = {input_size}"
    )
    if x.dim() == 4:
        sequence = x.transpose(1, 2).flatten(2)
    elif x.dim() == 3:
        sequence = x
    else:
        change = "add the missing dimension (x.unsqueeze(-1) for series of one feature per step)"
        raise shape_error(owner, expected, x, change)
    if sequence.shape[2] != input_size:
        raise shape_error(owner, expected, x, f"set input_size={sequence.shape[2]}")
    if sequence.shape[1] == 0:
        raise shape_error(owner, expected, x, "give every series at least one time step")
    return sequence
