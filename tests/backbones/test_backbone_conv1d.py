"""Convolutions over time: by hand, and what pooling over time forgets."""

import pytest
import torch
from torch.nn import functional

from hetfed_lightning.backbones import Conv1dBackbone


def test_features_join_mean_and_maximum_over_time_by_hand() -> None:
    backbone = Conv1dBackbone(in_features=1, width=1, kernel_size=1, layers=1, out_features=2)
    state = {
        "series_convolutions.0.weight": torch.tensor([[[2.0]]]),
        "series_convolutions.0.bias": torch.tensor([0.0]),
        "project_pooled_series.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "project_pooled_series.bias": torch.tensor([0.0, 0.0]),
    }
    backbone.load_state_dict(state)
    x = torch.tensor([1.0, -4.0, 5.0]).reshape(1, 3, 1)
    # relu(2 * x) = [2, 0, 10]: mean 4, maximum 10
    assert backbone(x).tolist() == [[4.0, 10.0]]


def test_layers_are_convolution_and_relu_with_pooling_between() -> None:
    torch.manual_seed(0)
    backbone = Conv1dBackbone(in_features=2, width=3, kernel_size=3, layers=2, out_features=4)
    state = backbone.state_dict()
    x = torch.randn(2, 9, 2)

    def layer(maps: torch.Tensor, index: int) -> torch.Tensor:
        prefix = f"series_convolutions.{index}"
        return functional.conv1d(maps, state[f"{prefix}.weight"], state[f"{prefix}.bias"], padding=1).relu()

    maps = layer(functional.max_pool1d(layer(x.mT, 0), 2), 3)
    pooled = torch.cat([maps.mean(2), maps.max(2).values], dim=1)
    expected = (pooled @ state["project_pooled_series.weight"].T + state["project_pooled_series.bias"]).relu()
    torch.testing.assert_close(backbone(x), expected)


def test_a_pattern_counts_wherever_it_stands() -> None:
    torch.manual_seed(0)
    backbone = Conv1dBackbone(layers=2)
    early, late = torch.zeros(1, 64, 1), torch.zeros(1, 64, 1)
    pattern = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.0])
    early[0, 20:25, 0] = late[0, 40:45, 0] = pattern  # moved by a multiple of the pooling
    torch.testing.assert_close(backbone(early), backbone(late))


@pytest.mark.parametrize("length", [4, 5, 100])
def test_any_length_from_the_shortest_gives_features(length: int) -> None:
    assert Conv1dBackbone(layers=3)(torch.randn(2, length, 1)).shape == (2, 64)


def test_refusals_name_what_to_change() -> None:
    backbone = Conv1dBackbone(in_features=3, layers=3)
    with pytest.raises(ValueError, match=r"with 4 time steps or more, got \(2, 3, 3\): pad the series"):
        backbone(torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match=r"got \(2, 10, 6\): set in_features=6"):
        backbone(torch.zeros(2, 10, 6))
    with pytest.raises(ValueError, match=r"got \(2, 1, 28, 28\): .* images are not for it"):
        backbone(torch.zeros(2, 1, 28, 28))
    with pytest.raises(ValueError, match="odd kernel_size, got 4: set kernel_size=3 or kernel_size=5"):
        Conv1dBackbone(kernel_size=4)
