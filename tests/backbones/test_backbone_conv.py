"""The small convolutional network, by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from hetfed_lightning.backbones import ConvBackbone


def test_features_are_convolution_relu_pooling_twice_and_a_linear_layer() -> None:
    torch.manual_seed(0)
    backbone = ConvBackbone(width=3, out_features=4, in_channels=2, image_size=9)
    state = backbone.state_dict()
    x = torch.randn(2, 2, 9, 9)
    maps = x
    for layer in (0, 3):
        weight, bias = state[f"convolutions.{layer}.weight"], state[f"convolutions.{layer}.bias"]
        maps = functional.max_pool2d(functional.conv2d(maps, weight, bias, padding=1).relu(), 2)
    assert maps.shape == (2, 6, 2, 2)  # 9 pixels, then 4, then 2
    expected = (maps.flatten(1) @ state["project_maps.weight"].T + state["project_maps.bias"]).relu()
    torch.testing.assert_close(backbone(x), expected)


def test_a_bright_pixel_counts_by_hand() -> None:
    backbone = ConvBackbone(width=1, out_features=1, image_size=4)
    for parameter in backbone.parameters():
        parameter.data.zero_()
    first, second = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    first.weight.data[0, 0, 1, 1] = 2.0  # the centre of the kernel: twice the pixel
    second.weight.data[:, 0, 1, 1] = torch.tensor([1.0, -1.0])  # the second channel is cut by ReLU
    backbone.project_maps.weight.data.fill_(10.0)
    backbone.project_maps.bias.data.fill_(0.5)
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 3, 0] = 3.0
    assert backbone(x).item() == 60.5  # 10 * (2 * 3) + 0.5


def test_nothing_in_it_keeps_statistics_of_the_data() -> None:
    assert not list(ConvBackbone().buffers())


def test_refusals_name_what_to_change() -> None:
    backbone = ConvBackbone()
    with pytest.raises(ValueError, match=r"got \(2, 3, 32, 32\): set in_channels=3 and image_size=32"):
        backbone(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"got \(2, 28, 28\): add the missing dimension \(x.unsqueeze\(1\)"):
        backbone(torch.zeros(2, 28, 28))
    with pytest.raises(ValueError, match=r"got \(2, 1, 28, 30\): crop or pad the images to squares"):
        backbone(torch.zeros(2, 1, 28, 30))
    with pytest.raises(ValueError, match="image_size of at least 4, got 3: enlarge the images"):
        ConvBackbone(image_size=3)
