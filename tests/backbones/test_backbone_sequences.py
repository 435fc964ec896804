"""Reading images as series of rows, and the two backbones that do."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from hetfed_lightning.backbones import Backbone, RecurrentBackbone, TransformerBackbone, as_sequence
from hetfed_lightning.backbones.recurrent import Cell


def test_rows_of_a_grey_image_are_the_steps() -> None:
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert as_sequence(image, 3).tolist() == [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]
    assert torch.equal(as_sequence(image.squeeze(1), 3), as_sequence(image, 3))


def test_a_step_of_a_colour_image_holds_one_row_of_every_channel() -> None:
    image = torch.arange(8.0).reshape(1, 2, 2, 2)  # channel 0: rows 01, 23; channel 1: rows 45, 67
    assert as_sequence(image, 4).tolist() == [[[0.0, 1.0, 4.0, 5.0], [2.0, 3.0, 6.0, 7.0]]]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 28, 30), r"expected series of shape \(batch, time, 28\).*got \(2, 28, 30\): set input_size=30"),
        ((2, 3, 32, 32), r"channels \* columns = 28, got \(2, 3, 32, 32\): set input_size=96"),
        ((2, 28), r"got \(2, 28\): add the missing dimension"),
        ((2, 0, 28), r"got \(2, 0, 28\): give every series at least one time step"),
    ],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        as_sequence(torch.zeros(shape), 28)


@pytest.mark.parametrize(
    "backbone",
    [RecurrentBackbone(input_size=6), TransformerBackbone(input_size=6)],
    ids=["recurrent", "transformer"],
)
def test_image_rows_and_series_give_equal_features(backbone: Backbone) -> None:
    torch.manual_seed(0)
    backbone.eval()
    image = torch.randn(3, 1, 5, 6)
    assert torch.equal(backbone(image), backbone(image.squeeze(1)))


@pytest.mark.parametrize(
    "backbone",
    [
        RecurrentBackbone(input_size=2),
        RecurrentBackbone(input_size=2, cell="lstm", num_layers=2, bidirectional=True),
        TransformerBackbone(input_size=2, width=8, heads=2, max_length=40),
    ],
    ids=["gru", "deep bidirectional lstm", "transformer"],
)
@pytest.mark.parametrize("length", [1, 7, 40])
def test_any_length_gives_features(backbone: Backbone, length: int) -> None:
    assert backbone(torch.randn(3, length, 2)).shape == (3, 64)


def _gru_by_hand(x: Tensor, gru: nn.GRU) -> Tensor:
    hidden = torch.zeros(len(x), gru.hidden_size)
    state = gru.state_dict()
    for step in x.unbind(1):
        reset_i, update_i, new_i = (step @ state["weight_ih_l0"].T + state["bias_ih_l0"]).chunk(3, 1)
        reset_h, update_h, new_h = (hidden @ state["weight_hh_l0"].T + state["bias_hh_l0"]).chunk(3, 1)
        update = (update_i + update_h).sigmoid()
        new = (new_i + (reset_i + reset_h).sigmoid() * new_h).tanh()
        hidden = (1 - update) * new + update * hidden
    return hidden


def test_recurrent_features_come_from_the_last_state_of_the_equations() -> None:
    torch.manual_seed(0)
    backbone = RecurrentBackbone(out_features=3, input_size=2, hidden_size=4)
    x = torch.randn(2, 5, 2)
    gru = backbone.recurrent["gru"]
    assert isinstance(gru, nn.GRU)
    expected = backbone.project_last_state["gru"](_gru_by_hand(x, gru)).relu()
    torch.testing.assert_close(backbone(x), expected)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_both_directions_of_the_last_layer_are_used(cell: Cell) -> None:
    torch.manual_seed(0)
    backbone = RecurrentBackbone(5, 2, 4, 2, cell, bidirectional=True)
    x = torch.randn(3, 6, 2)
    outputs = backbone.recurrent[cell](x)[0]  # (B, time, 2 * hidden): the backward half ends at the first step
    last = torch.cat([outputs[:, -1, :4], outputs[:, 0, 4:]], dim=1)
    torch.testing.assert_close(backbone(x), backbone.project_last_state[cell](last).relu())


def test_cells_share_no_key_since_their_states_mean_different_things() -> None:
    gru, lstm = RecurrentBackbone(cell="gru"), RecurrentBackbone(cell="lstm")
    assert not set(gru.state_dict()) & set(lstm.state_dict())


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected cell to be one of \('gru', 'lstm'\), got 'rnn'"):
        RecurrentBackbone(cell="rnn")  # type: ignore[arg-type]  # the point of the test


def test_the_order_of_steps_matters_to_a_transformer_only_through_positions() -> None:
    torch.manual_seed(0)
    backbone = TransformerBackbone(input_size=3, width=8, heads=2).eval()
    x = torch.randn(2, 6, 3)
    assert (backbone(x) - backbone(x.flip(1))).abs().max() > 1e-4
    backbone.positions.data.zero_()
    torch.testing.assert_close(backbone(x), backbone(x.flip(1)), rtol=1e-4, atol=1e-5)


def test_the_layers_of_a_transformer_start_unequal() -> None:
    torch.manual_seed(0)
    first, second = TransformerBackbone(layers=2).layers
    assert not torch.equal(first.get_parameter("linear1.weight"), second.get_parameter("linear1.weight"))


def test_training_and_evaluation_agree_without_dropout_and_differ_with_it() -> None:
    # Evaluation without gradients takes PyTorch's fused path, training the plain one.
    torch.manual_seed(0)
    x = torch.randn(2, 28, 28)
    for dropout, agree in ((0.0, True), (0.3, False)):
        backbone = TransformerBackbone(dropout=dropout)
        trained = backbone.train()(x)
        with torch.no_grad():
            evaluated = backbone.eval()(x)
        assert torch.allclose(trained, evaluated, rtol=1e-4, atol=1e-5) == agree


def test_a_transformer_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = TransformerBackbone()
        backbone(torch.zeros(2, 28, 28))
        with torch.no_grad():
            backbone.eval()(torch.zeros(2, 28, 28))


def test_the_fused_encoder_of_pytorch_computes_the_same() -> None:
    torch.manual_seed(0)
    backbone = TransformerBackbone(input_size=3, width=8, heads=2, feedforward=16, layers=2)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)
    encoder.layers.load_state_dict(backbone.layers.state_dict())
    x = torch.randn(2, 5, 3)
    steps = encoder(x @ backbone.embed.weight.T + backbone.embed.bias + backbone.positions[:5])
    torch.testing.assert_close(backbone(x), backbone.project_mean_step(steps.mean(1)).relu())


def test_transformer_refusals_name_what_to_change() -> None:
    with pytest.raises(ValueError, match="got width=30 and heads=4: set width=32"):
        TransformerBackbone(width=30)
    with pytest.raises(ValueError, match=r"at most 9 time steps, got \(2, 12, 28\): set max_length=12"):
        TransformerBackbone(max_length=9)(torch.zeros(2, 12, 28))
    with pytest.raises(ValueError, match=r"expected dropout in \[0, 1\), got 1.0"):
        TransformerBackbone(dropout=1.0)
