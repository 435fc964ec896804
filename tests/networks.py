"""Networks of kinds that are awkward to average: weights that are tied, computed from others, wrapped, or frozen."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as older_spectral_norm

Parts = tuple[nn.Module, nn.Module]
"""Backbone ``(B, 4) -> (B, 5)`` and head ``(B, 5) -> (B, 3)``."""


def drawn(seed: int, make: Callable[[], Parts]) -> Parts:
    """Parts whose initial weights a seed names."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return make()


def orthogonal(seed: int, kind: str | None = None) -> Parts:
    def make() -> Parts:
        square = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map=kind)
        return nn.Sequential(square, nn.Tanh(), parametrizations.orthogonal(nn.Linear(4, 5))), nn.Linear(5, 3)

    return drawn(seed, make)


def weight_norm(seed: int) -> Parts:
    return drawn(
        seed, lambda: (nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.ReLU()), nn.Linear(5, 3))
    )


def spectral_norm(seed: int) -> Parts:
    return drawn(
        seed, lambda: (nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh()), nn.Linear(5, 3))
    )  # fmt: skip


def older_spectral(seed: int) -> Parts:
    def make() -> Parts:
        layer: nn.Module = older_spectral_norm(nn.Linear(4, 5))
        return nn.Sequential(layer, nn.Tanh()), nn.Linear(5, 3)

    return drawn(seed, make)


def tied(seed: int) -> Parts:
    """The head's weight is that of the backbone's last layer."""

    def make() -> Parts:
        last, head = nn.Linear(5, 3), nn.Linear(5, 3)
        head.weight = last.weight
        return Residue(nn.Linear(4, 5), last), head

    return drawn(seed, make)


class Residue(nn.Module):
    """Features and what a layer and its transpose leave of them."""

    def __init__(self, first: nn.Linear, last: nn.Linear) -> None:
        super().__init__()
        self.first, self.last = first, last

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.first(inputs).tanh()
        left: Tensor = features + self.last(features) @ self.last.weight
        return left


def compiled_by_hand(seed: int) -> Parts:
    """Every second one is wrapped by ``torch.compile``, which puts ``_orig_mod`` into its names."""
    backbone, head = drawn(seed, lambda: (nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3)))
    return (torch.compile(backbone, backend="eager") if seed % 2 else backbone), head  # type: ignore[return-value]


class Adapted(nn.Module):
    """A frozen layer, and one of low rank beside it that is trained (Hu et al. 2022)."""

    def __init__(self, base: Tensor, rank: int = 2) -> None:
        super().__init__()
        out, features = base.shape
        self.base = nn.Linear(features, out, bias=False).requires_grad_(False)
        self.base.weight.copy_(base)
        self.down = nn.Linear(features, rank, bias=False)
        self.up = nn.Linear(rank, out, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.base(inputs) + self.up(self.down(inputs))
        return outputs


def adapted(seed: int, *, base: int = 77) -> Parts:
    """Adapters drawn by one seed over frozen weights drawn by another."""
    frozen = torch.randn(5, 4, generator=torch.Generator().manual_seed(base))
    return drawn(seed, lambda: (nn.Sequential(Adapted(frozen), nn.Tanh()), nn.Linear(5, 3)))


ADAPTERS = ("*.down.weight", "*.up.weight")

ZOO: dict[str, tuple[Callable[[int], Parts], dict[str, Any]]] = {
    "orthogonal": (orthogonal, {}),
    "orthogonal, Cayley": (lambda seed: orthogonal(seed, "cayley"), {}),
    "orthogonal, Householder": (lambda seed: orthogonal(seed, "householder"), {}),
    "weight norm": (weight_norm, {}),
    "spectral norm": (spectral_norm, {}),
    "spectral norm, the older": (older_spectral, {}),
    "tied": (tied, {}),
    "tied, all shared": (tied, {"shared": ("*",)}),
    "tied, the head shared": (tied, {"shared": ("head", "backbone.first", "backbone.last.bias")}),
    "compiled by hand": (compiled_by_hand, {}),
    "adapters": (adapted, {"shared": ADAPTERS}),
    "adapters, all shared": (adapted, {}),
}
"""By kind: what makes a participant's parts of a seed, and settings of the participant."""
