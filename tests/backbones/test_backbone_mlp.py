"""The multilayer perceptron, against matrix products."""

import pytest
import torch

from hetfed_lightning.backbones import MLPBackbone


def test_features_are_two_matrix_products_by_hand() -> None:
    backbone = MLPBackbone(in_features=2, hidden=(2,), out_features=2)
    state = {
        "hidden.0.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "hidden.0.bias": torch.tensor([0.0, -10.0]),
        "project_hidden.weight": torch.tensor([[1.0, 1.0], [-1.0, 0.0]]),
        "project_hidden.bias": torch.tensor([0.5, 0.0]),
    }
    backbone.load_state_dict(state)
    # Hidden: 1 + 4 = 5 and 3 + 8 - 10 = 1. Features: 5 + 1 + 0.5 = 6.5 and -5, which ReLU cuts to 0.
    assert backbone(torch.tensor([[1.0, 2.0]])).tolist() == [[6.5, 0.0]]


@pytest.mark.parametrize("hidden", [(), (5,), (5, 3, 4)])
def test_features_are_the_matrix_products_for_any_depth(hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    backbone = MLPBackbone(6, hidden, 4)
    values = x = torch.randn(3, 6)
    weights = [value for value in backbone.state_dict().values() if value.dim() == 2]
    biases = [value for value in backbone.state_dict().values() if value.dim() == 1]
    assert len(weights) == len(hidden) + 1
    for weight, bias in zip(weights, biases, strict=True):
        values = (values @ weight.T + bias).relu()
    torch.testing.assert_close(backbone(x), values)


def test_whatever_comes_is_flattened() -> None:
    torch.manual_seed(0)
    backbone = MLPBackbone(in_features=24)
    x = torch.randn(5, 2, 3, 4)
    assert torch.equal(backbone(x), backbone(x.reshape(5, 24)))


def test_dropout_drops_in_training_only_and_leaves_the_keys() -> None:
    torch.manual_seed(0)
    plain, dropping = MLPBackbone(4, (50, 50)), MLPBackbone(4, (50, 50), dropout=0.5)
    assert list(plain.state_dict()) == list(dropping.state_dict())
    dropping.load_state_dict(plain.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(dropping.eval()(x), plain(x))
    assert not torch.equal(dropping.train()(x), plain(x))


def test_refusals_name_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"784 numbers each.*got \(2, 3, 4\): set in_features=12"):
        MLPBackbone()(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"got \(784,\): add the missing dimension"):
        MLPBackbone()(torch.zeros(784))
    with pytest.raises(ValueError, match=r"hidden of at least 1, got \[8, 0\]"):
        MLPBackbone(hidden=[8, 0])
    with pytest.raises(ValueError, match=r"expected dropout in \[0, 1\), got -0.1"):
        MLPBackbone(dropout=-0.1)
