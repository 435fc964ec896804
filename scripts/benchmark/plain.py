"""The loop that a researcher would write: torch alone, as fast as is natural.

Participant after participant, so that its weights stay in the cache; whole batches indexed from tensors; nothing
read back from the device; averages by torch's operations on lists of tensors.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from scripts.benchmark.workloads import Data, MakeOptimizer, Workload

Order = Callable[[tuple[int | str, ...], int], Tensor]
"""Permutation of so many examples, drawn from the stream of that name."""

TEMPERATURE = 2.0
DISTILLATION_BATCH = 64


def shuffled(stream: tuple[int | str, ...], count: int) -> Tensor:
    """An order of its own for every stream."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr(stream).encode()))
    return torch.randperm(count, generator=generator)


@dataclass(frozen=True)
class Group:
    """Participants that average, and the keys of their states that they average."""

    members: Sequence[str]
    keys: Sequence[str]


class PlainLoop:
    """A federation in plain PyTorch.

    Args:
        networks: Everybody's network; trained in place.
        data: Everybody's training set; a participant's batches come from it in the order that ``order`` draws.
        optimizers: Makes a participant's optimizer, by name.
        batch_sizes: Examples per batch, by name.
        groups: Who averages what, weighted by examples.
        order: Draws permutations; those of the run to compare with, so that the batches are the same.
        local_epochs: Passes over its data in a round, by name; one if absent.
        forgets: Whether optimizers forget their state after averaging.
        public: Inputs on which everybody distils from the mean of all predictions; None for no distillation.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        data: Mapping[str, Data],
        *,
        optimizers: Mapping[str, MakeOptimizer],
        batch_sizes: Mapping[str, int],
        groups: Sequence[Group],
        order: Order = shuffled,
        local_epochs: Mapping[str, int] | None = None,
        forgets: bool = False,
        public: Tensor | None = None,
    ) -> None:
        self.networks = dict(networks)
        self.data = dict(data)
        self.optimizers = {name: optimizers[name](network.parameters()) for name, network in networks.items()}
        self.batch_sizes = batch_sizes
        self.groups = groups
        self.order = order
        self.local_epochs = local_epochs or {}
        self.forgets = forgets
        self.public = public
        for group in groups:  # Averages of networks that began elsewhere are poor.
            self._receive(group, self._shared(group.members[0], group))

    @classmethod
    def of(
        cls,
        workload: Workload,
        order: Order = shuffled,
        device: str = "cpu",
        data: Mapping[str, Data] | None = None,
    ) -> Self:
        """The workload's, on a device; ``data`` if it has been made already."""
        data = workload.data() if data is None else data
        networks = {name: network.to(device) for name, network in workload.networks().items()}
        alike: dict[tuple[tuple[str, torch.Size], ...], list[str]] = {}
        for name, network in networks.items():
            shapes = tuple((key, tensor.shape) for key, tensor in network.state_dict().items())
            alike.setdefault(shapes, []).append(name)
        prefix = "" if workload.shared == "*" else workload.shared
        return cls(
            networks,
            {name: (inputs.to(device), targets.to(device)) for name, (inputs, targets) in data.items()},
            optimizers=dict.fromkeys(networks, workload.optimizer),
            batch_sizes=dict.fromkeys(networks, workload.batch_size),
            groups=[
                Group(members, [key for key, _ in shapes if key.startswith(prefix)])
                for shapes, members in alike.items()
                if len(members) > 1
            ],
            order=order,
            public=workload.public().to(device) if workload.distils else None,
        )

    def round(self, index: int) -> None:
        """Everyone's local steps, distillation, averages."""
        for name, network in self.networks.items():
            inputs, targets = self.data[name]
            optimizer, size = self.optimizers[name], self.batch_sizes[name]
            for epoch in range(self.local_epochs.get(name, 1)):
                for batch in self.order(("order", index, name, epoch), len(targets)).to(targets.device).split(size):
                    optimizer.zero_grad()
                    functional.cross_entropy(network(inputs[batch]), targets[batch]).backward()
                    optimizer.step()
        if self.public is not None:
            self._distil(self.public, index)
        for group in self.groups:
            self._average(group)
        if self.forgets:
            for optimizer in self.optimizers.values():
                optimizer.state.clear()

    def _distil(self, public: Tensor, index: int) -> None:
        with torch.no_grad():
            said = [functional.softmax(network(public) / TEMPERATURE, dim=1) for network in self.networks.values()]
            target = torch.stack(said).mean(dim=0)
        for name, network in self.networks.items():
            optimizer = self.optimizers[name]
            order = self.order(("distil", name, index, 0), len(public)).to(public.device)
            for batch in order.split(DISTILLATION_BATCH):
                optimizer.zero_grad()
                guesses = functional.log_softmax(network(public[batch]) / TEMPERATURE, dim=1)
                loss = functional.kl_div(guesses, target[batch], reduction="batchmean") * TEMPERATURE**2
                loss.backward()
                optimizer.step()

    def _shared(self, name: str, group: Group) -> list[Tensor]:
        state = self.networks[name].state_dict()
        return [state[key] for key in group.keys if state[key].is_floating_point()]

    @torch.no_grad()
    def _average(self, group: Group) -> None:
        total = sum(len(self.data[name][1]) for name in group.members)
        mean = [torch.zeros_like(tensor) for tensor in self._shared(group.members[0], group)]
        for name in group.members:
            torch._foreach_add_(mean, self._shared(name, group), alpha=len(self.data[name][1]) / total)
        self._receive(group, mean)

    @torch.no_grad()
    def _receive(self, group: Group, values: list[Tensor]) -> None:
        for name in group.members:
            torch._foreach_copy_(self._shared(name, group), values)
