"""The residual network: what a block adds, what a normalisation sees, which shapes come out."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from hetfed_lightning.backbones import ResidualBackbone
from hetfed_lightning.backbones.residual import Norm, ResidualBlock


def _silence_last_layer(block: ResidualBlock) -> None:
    last = [module for module in block.residual if list(module.parameters())][-1]
    for parameter in last.parameters():
        parameter.data.zero_()


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_a_block_with_a_silent_branch_is_its_shortcut(norm: Norm) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6).relu()
    same = ResidualBlock(4, 4, norm=norm)
    _silence_last_layer(same)
    assert torch.equal(same(x), x)  # ReLU leaves what is not negative
    halved = ResidualBlock(4, 8, stride=2, norm=norm)
    _silence_last_layer(halved)
    assert torch.equal(halved(x), halved.shortcut(x).relu())
    assert halved(x).shape == (2, 8, 3, 3)


def test_a_block_adds_its_branch_to_the_shortcut_by_hand() -> None:
    block = ResidualBlock(1, 1, norm="none")
    for parameter in block.parameters():
        parameter.data.zero_()
    first, second = (module for module in block.residual if isinstance(module, nn.Conv2d))
    first.weight.data[0, 0, 1, 1] = 2.0
    second.weight.data[0, 0, 1, 1] = -3.0
    x = torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1)
    # x = 1: 1 + (-3) * relu(2 * 1) = -5, cut to 0; x = -1: -1 + (-3) * relu(-2) = -1, cut to 0
    assert block(x).flatten().tolist() == [0.0, 0.0]
    second.weight.data[0, 0, 1, 1] = 3.0
    # x = 1: 1 + 3 * 2 = 7; x = -1 as before
    assert block(x).flatten().tolist() == [7.0, 0.0]


def test_group_normalisation_sees_one_sample_and_batch_normalisation_the_batch() -> None:
    torch.manual_seed(0)
    x, company = torch.randn(1, 1, 28, 28), 5.0 + torch.randn(3, 1, 28, 28)
    group = ResidualBackbone(width=4).train()
    torch.testing.assert_close(group(torch.cat([x, company]))[:1], group(x), rtol=1e-4, atol=1e-5)
    batch = ResidualBackbone(width=4, norm="batch").train()
    assert (batch(torch.cat([x, company]))[:1] - batch(x)).abs().max() > 1e-2


def test_only_batch_normalisation_keeps_statistics() -> None:
    assert not list(ResidualBackbone().buffers())
    assert not list(ResidualBackbone(norm="none").buffers())
    assert list(ResidualBackbone(norm="batch").buffers())


def test_without_normalisation_convolutions_have_biases_and_with_it_none() -> None:
    for norm, has_bias in (("group", False), ("batch", False), ("none", True)):
        convolutions = [
            module
            for module in ResidualBackbone(norm=norm).modules()  # type: ignore[arg-type]  # a str from the loop
            if isinstance(module, nn.Conv2d)
        ]
        assert all((convolution.bias is not None) == has_bias for convolution in convolutions)


@given(width=st.integers(1, 40), stages=st.integers(1, 3))
@example(width=8, stages=1)  # eight groups of one channel would be too many
@settings(max_examples=25, deadline=None)
def test_groups_divide_every_width_and_hold_two_channels_if_they_can(width: int, stages: int) -> None:
    backbone = ResidualBackbone(width=width, blocks=(1,) * stages, image_size=4)
    for module in backbone.modules():
        if isinstance(module, nn.GroupNorm):
            assert module.num_channels % module.num_groups == 0
            assert 1 <= module.num_groups <= 8
            assert module.num_groups == 1 or module.num_channels // module.num_groups >= 2
            if module.num_channels % 16 == 0:
                assert module.num_groups == 8


def test_blocks_count_per_stage_and_stages_double_the_width() -> None:
    backbone = ResidualBackbone(width=4, blocks=[2, 1, 3], out_features=5, in_channels=3, image_size=32)
    blocks = [module for module in backbone.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 6
    assert backbone.project_mean_map.in_features == 16  # 4, 8, 16
    assert backbone.stages(backbone.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 16, 8, 8)
    # identities wherever the shape stays, convolutions at the two halvings
    identities = [isinstance(block.shortcut, nn.Identity) for block in blocks]
    assert identities == [True, True, False, False, True, True]


def test_features_are_the_projected_mean_over_the_last_maps() -> None:
    torch.manual_seed(0)
    backbone = ResidualBackbone(width=4, out_features=5, image_size=8)
    x = torch.randn(2, 1, 8, 8)
    maps = backbone.stem(x)
    for stage in backbone.stages:
        maps = stage(maps)
    assert maps.shape == (2, 16, 2, 2)
    weight, bias = backbone.project_mean_map.weight, backbone.project_mean_map.bias
    torch.testing.assert_close(backbone(x), (maps.flatten(2).mean(2) @ weight.T + bias).relu())


def test_refusals_name_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"norm to be one of \('group', 'batch', 'none'\), got 'layer'"):
        ResidualBackbone(norm="layer")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match=r"one stage or more, got blocks=\(\): set blocks="):
        ResidualBackbone(blocks=())
    with pytest.raises(ValueError, match=r"blocks of at least 1, got \(1, 0\)"):
        ResidualBackbone(blocks=(1, 0))
    with pytest.raises(ValueError, match=r"got \(2, 3, 32, 32\): set in_channels=3 and image_size=32"):
        ResidualBackbone()(torch.zeros(2, 3, 32, 32))
