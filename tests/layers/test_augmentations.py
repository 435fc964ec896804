"""Random changes of inputs: each is one that could be made by hand, for every example its own."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetfed_lightning.layers import GaussianNoise, RandomCrop, RandomShift

ALL = [RandomShift(2), RandomCrop(0.5), GaussianNoise(0.3), nn.Sequential(RandomShift(1), GaussianNoise(0.1))]


def seeded(module: nn.Module, inputs: Tensor, seed: int = 0) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found: Tensor = module(inputs)
    return found


def shifted(image: Tensor, down: int, across: int) -> Tensor:
    """An image ``(..., H, W)`` moved by hand, pixel by pixel."""
    found, (height, width) = torch.zeros_like(image), image.shape[-2:]
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - across < width:
                found[..., row, column] = image[..., row - down, column - across]
    return found


@pytest.mark.parametrize("shape", [(4, 5), (2, 4, 5), (2, 3, 4, 5)])
def test_every_shift_is_one_by_hand_and_all_occur(shape: tuple[int, ...]) -> None:
    image = 1 + torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    by_hand = [shifted(image, down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
    found = seeded(RandomShift(1), image.expand(300, *shape))
    counts = [sum(torch.equal(one, wanted) for one in found) for wanted in by_hand]
    assert sum(counts) == 300
    assert min(counts) >= 15  # 33 are expected; fewer than 15 of one in 300 have a chance below 1e-3.


def test_a_shift_beyond_the_image_leaves_it_empty() -> None:
    found = seeded(RandomShift(50), torch.ones(200, 2, 2))
    assert {float(one.sum()) for one in found} == {0.0}


def test_a_window_of_a_ramp_is_a_less_steep_ramp() -> None:
    # Bilinear interpolation gives a linear function exactly; enlarging a window of side s divides its slope by 1 / s.
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(32.0), indexing="ij")
    image = (3 * rows + columns).double()
    found = seeded(RandomCrop(0.5), image.expand(200, 2, 16, 32))
    assert torch.equal(found[:, 0], found[:, 1])
    inner = found[:, 0, 4:12, 8:24]
    down, across = inner.diff(dim=1), inner.diff(dim=2)
    sides = across[:, 0, 0]
    torch.testing.assert_close(across, sides[:, None, None].expand_as(across))
    torch.testing.assert_close(down, 3 * sides[:, None, None].expand_as(down))
    assert 0.5 <= float(sides.min()) < 0.52
    assert 0.98 < float(sides.max()) <= 1
    assert float(found.min()) >= float(image.min())
    assert float(found.max()) <= float(image.max())
    # Places: the centre of a window of side s lies within (1 - s) / 2 of the image's sizes, and some come close to it.
    middle = inner.mean((1, 2)) - image.mean()
    share = middle / (1 - sides) / (3 * 8 + 16)
    assert float(share.abs().max()) <= 1 + 1e-9
    assert float(share.max()) > 0.5
    assert float(share.min()) < -0.5


def test_noise_is_normal_of_its_deviation_and_independent() -> None:
    found = seeded(GaussianNoise(0.3), torch.full((2, 50_000), 5.0)) - 5
    assert float(found.std()) == pytest.approx(0.3, rel=0.02)
    assert float(found.mean()) == pytest.approx(0, abs=0.005)
    assert abs(float(torch.corrcoef(found)[0, 1])) < 0.02


@pytest.mark.parametrize("module", [RandomShift(0), RandomCrop(1.0), GaussianNoise(0)])
def test_the_smallest_change_is_none(module: nn.Module) -> None:
    images = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(seeded(module, images), images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("module", ALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 1, 4, 5), (6, 2, 3, 4, 5)])
def test_shape_and_dtype_are_kept_the_input_too_and_a_seed_repeats_it(
    module: nn.Module, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = inputs.clone()
    found = seeded(module, inputs)
    assert (found.shape, found.dtype) == (inputs.shape, dtype)
    assert torch.equal(inputs, before)
    assert torch.equal(found, seeded(module, inputs))
    assert torch.equal(found, seeded(module.eval(), inputs))
    assert not torch.equal(found, seeded(module.train(), inputs, seed=1))


@pytest.mark.parametrize("module", [RandomShift(2), RandomCrop(0.5), GaussianNoise(0.3)], ids=str)
def test_examples_change_apart(module: nn.Module) -> None:
    image = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    found = seeded(module, image.expand(20, 4, 5))
    assert len({tuple(one.flatten().tolist()) for one in found}) > 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomShift(-1), "max_pixels: expected at least 0, got -1"),
        (lambda: RandomCrop(0), r"min_side: expected a fraction in \(0, 1\], got 0"),
        (lambda: RandomCrop(1.1), "min_side"),
        (lambda: GaussianNoise(-0.1), "std: expected a finite number of at least 0, got -0.1"),
        (lambda: GaussianNoise(float("nan")), "std"),
        (lambda: RandomShift(1)(torch.zeros(4, 9)), r"RandomShift: expected images of shape .* got \(4, 9\)"),
        (lambda: RandomCrop()(torch.zeros(4, 9)), "RandomCrop: expected images"),
    ],
)
def test_what_is_out_of_range_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
