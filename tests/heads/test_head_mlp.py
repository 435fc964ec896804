"""The multilayer perceptron as head."""

import pytest
import torch

from hetfed_lightning.heads import MLPHead


def test_outputs_are_two_matrix_products_and_may_be_negative() -> None:
    head = MLPHead(2, 2, hidden=(1,))
    state = {
        "hidden.0.weight": torch.tensor([[1.0, 2.0]]),
        "hidden.0.bias": torch.tensor([1.0]),
        "output.weight": torch.tensor([[1.0], [-1.0]]),
        "output.bias": torch.tensor([0.5, 0.0]),
    }
    head.load_state_dict(state)
    # hidden: relu(1 + 4 + 1) = 6, and relu(-1 - 4 + 1) = 0
    assert head(torch.tensor([[1.0, 2.0], [-1.0, -2.0]])).tolist() == [[6.5, -6.0], [0.5, 0.0]]


def test_without_hidden_layers_it_is_a_linear_layer() -> None:
    torch.manual_seed(0)
    head = MLPHead(4, 3, hidden=())
    linear = torch.nn.Linear(4, 3)
    linear.load_state_dict({key.removeprefix("output."): value for key, value in head.state_dict().items()})
    x = torch.randn(5, 4)
    assert torch.equal(head(x), linear(x))


def test_dropout_drops_in_training_only_and_leaves_the_keys() -> None:
    torch.manual_seed(0)
    plain, dropping = MLPHead(4, 3, (50,)), MLPHead(4, 3, (50,), dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(dropping.eval()(x), plain(x))
    assert not torch.equal(dropping.train()(x), plain(x))


def test_refusals_name_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"MLPHead expected hidden of at least 1, got \(0,\)"):
        MLPHead(hidden=(0,))
    with pytest.raises(ValueError, match=r"MLPHead expected dropout in \[0, 1\), got 2"):
        MLPHead(dropout=2.0)
