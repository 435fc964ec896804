"""One optimizer over a stack: torch's SGD, Adam and AdamW with settings of each participant's own.

Each participant keeps its torch optimizer. Its settings are read before steps, and the buffers in its state are views
of the stacked ones. Schedulers, checkpoints and steps of a single participant therefore see the usual state.

Reference:
    Kingma and Ba (2015), Adam, Algorithm 1; Loshchilov and Hutter (2019), Decoupled Weight Decay Regularization,
    Algorithm 2; both as ``torch.optim`` computes them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from hetfed_lightning.fleets.parts import Trained
from hetfed_lightning.fleets.stack import Stack


class StackedOptimizer(ABC):
    """Optimizer of the parameters in a stack's first rows.

    Args:
        stack: Stack whose rows are stepped, N participants by ``width`` numbers.
    """

    needed: ClassVar[tuple[str, ...]]
    """Settings of a parameter group that may differ between participants."""

    equal: ClassVar[tuple[str, ...]]
    """Settings that may not differ between participants, as their optimizer's type may not."""

    buffers: ClassVar[tuple[str, ...]]
    """Names of the state's tensors that have a parameter's shape."""

    counts_steps: ClassVar[bool] = False

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.settings: dict[str, Tensor] = {}
        self._nonzero: dict[str, bool] = {}
        self.state = {name: torch.zeros_like(stack.flat) for name in self.used_buffers()}
        # As torch counts them: on the CPU, in its default dtype, for each parameter.
        self.steps = torch.zeros(
            stack.count, len(stack.layout), dtype=torch.promote_types(stack.flat.dtype, torch.float32)
        )
        self._uneven = False  # True once the parameters of a row may have made unequal numbers of steps.
        self._spare: Tensor | None = None

    def used_buffers(self) -> tuple[str, ...]:
        """Names of the buffers that the settings ask for."""
        return self.buffers

    @classmethod
    def obstacle(cls, group: Mapping[str, Any]) -> str | None:
        """First setting of a parameter group that this class cannot follow, as ``name=value``; None without one."""
        unknown = [name for name in ("maximize", "amsgrad", "differentiable", "dampening") if group.get(name)]
        return f"{unknown[0]}={group[unknown[0]]}" if unknown else None

    def read(self, optimizers: Sequence[Optimizer]) -> None:
        """Take over the settings of each participant's optimizer, given in the order of the rows."""
        flat = self.stack.flat
        groups = [optimizer.param_groups[0] for optimizer in optimizers]
        for name in self.needed:
            values = torch.tensor([_number(group, name) for group in groups], dtype=torch.float64)
            self.settings[name] = values.to(flat.device)[:, None]
            self._nonzero[name] = bool((values != 0).any())

    def any(self, name: str) -> bool:
        """True if a setting is other than 0 for at least one participant."""
        return self._nonzero[name]

    @torch.no_grad()
    def pull(self, index: int, optimizer: Optimizer) -> None:
        """Copy a participant's optimizer state into its row, and replace it by views of the row.

        Args:
            index: Row of the participant.
            optimizer: Its torch optimizer.
        """
        parameters = optimizer.param_groups[0]["params"]
        for name, stacked in self.state.items():
            for parameter, view in zip(parameters, self.stack.row(index, stacked), strict=True):
                found = optimizer.state[parameter].get(name)
                if found is None:
                    view.zero_()
                elif found.data_ptr() != view.data_ptr():
                    view.copy_(found)
                optimizer.state[parameter][name] = view
        if self.counts_steps:
            for place, parameter in enumerate(parameters):
                count = self.steps[index, place]
                count.fill_(optimizer.state[parameter].get("step", 0.0))
                optimizer.state[parameter]["step"] = count
            self._uneven |= len(set(self.steps[index].tolist())) > 1

    @staticmethod
    def let_go(optimizer: Optimizer) -> None:
        """Give a participant's optimizer state memory of its own again."""
        for state in optimizer.state.values():
            state.update({key: value.clone() for key, value in state.items() if isinstance(value, Tensor)})

    def step(self, count: int, gradients: Tensor, trained: Sequence[Trained] | None = None) -> None:
        """Move the first rows of the stack along their gradients.

        Args:
            count: Number of rows.
            gradients: Shape ``(count, width)``; may be overwritten.
            trained: Parameters to move, of all those rows; None for all. Others keep their values and their states.
        """
        for one in (Trained(slice(0, count), None),) if trained is None else trained:
            for keys in self._counted_alike(one):
                columns = (slice(None),) if keys is None else self.stack.columns(keys)
                steps = self._counted(one.rows, keys) if self.counts_steps else None
                for column in columns:
                    self._move(one.rows, column, gradients[one.rows, column], steps)
                self._uneven |= keys is not None

    @abstractmethod
    def _move(self, rows: slice, columns: slice, gradients: Tensor, steps: Tensor | None) -> None:
        """Move a block of the stack along its gradients.

        Args:
            rows: Rows of the block, K in all.
            columns: Columns of the block, W in all.
            gradients: Shape ``(K, W)``; may be overwritten.
            steps: Number of steps of each row's parameters, this one included, shape ``(K, 1)``; None where steps are
                not counted.
        """

    def _counted_alike(self, trained: Trained) -> list[tuple[str, ...] | None]:
        """Keys in groups whose parameters have made equally many steps, row by row."""
        if not (self.counts_steps and self._uneven):
            return [trained.keys]
        keys = tuple(self.stack.layout) if trained.keys is None else trained.keys
        groups: dict[tuple[float, ...], list[str]] = {}
        for key, counts in zip(self.stack.layout, self.steps[trained.rows].T.tolist(), strict=True):
            if key in keys:
                groups.setdefault(tuple(counts), []).append(key)
        return [tuple(group) for group in groups.values()]

    def _counted(self, rows: slice, keys: Sequence[str] | None) -> Tensor:
        """Number of steps of rows, shape ``(K, 1)``, once the one to make is counted; of parameters counted alike."""
        if keys is None:
            self.steps[rows] += 1
            return self.steps[rows, :1]
        places = [place for place, key in enumerate(self.stack.layout) if key in keys]
        self.steps[rows, places] += 1
        return self.steps[rows, places[0] : places[0] + 1]

    def setting(self, name: str, rows: slice, dtype: torch.dtype) -> Tensor:
        """Setting of K participants, shape ``(K, 1)``.

        Args:
            name: Name of the setting.
            rows: Rows of the participants.
            dtype: Dtype of the result.
        """
        return self.settings[name][rows].to(dtype)

    @property
    def spare(self) -> Tensor:
        """Room for an intermediate result of all participants, shape ``(N, width)``, uninitialised."""
        if self._spare is None:
            self._spare = torch.empty_like(self.stack.flat)
        return self._spare


class StackedSGD(StackedOptimizer):
    """``torch.optim.SGD``, with momentum, Nesterov's too, and weight decay."""

    needed = ("lr", "momentum", "weight_decay")
    equal = ("nesterov",)
    buffers = ("momentum_buffer",)

    def __init__(self, stack: Stack, *, momentum: bool, nesterov: bool) -> None:
        self._momentum, self._nesterov = momentum, nesterov
        super().__init__(stack)

    def used_buffers(self) -> tuple[str, ...]:
        """The momentum buffer, or nothing without momentum."""
        return self.buffers if self._momentum else ()

    @property
    def is_plain(self) -> bool:
        """True if a step is the gradient times the learning rate and nothing else."""
        return not self._momentum and not self.any("weight_decay")

    @torch.no_grad()
    def _move(self, rows: slice, columns: slice, gradients: Tensor, steps: Tensor | None) -> None:
        """Move a block along its gradients, as ``torch.optim.SGD`` does."""
        del steps
        flat = self.stack.flat[rows, columns]
        if self.any("weight_decay"):
            gradients.addcmul_(flat, self.setting("weight_decay", rows, flat.dtype))
        if self._momentum:
            momentum, buffer = self.setting("momentum", rows, flat.dtype), self.state["momentum_buffer"][rows, columns]
            buffer.mul_(momentum).add_(gradients)
            if self._nesterov:
                gradients.addcmul_(buffer, momentum)
            else:
                gradients = buffer
        flat.addcmul_(gradients, self.setting("lr", rows, flat.dtype), value=-1)


class StackedAdam(StackedOptimizer):
    """``torch.optim.Adam`` and ``AdamW``."""

    needed = ("lr", "beta1", "beta2", "eps", "weight_decay")
    equal = ("decoupled_weight_decay",)
    buffers = ("exp_avg", "exp_avg_sq")
    counts_steps = True

    def __init__(self, stack: Stack, *, decoupled: bool) -> None:
        super().__init__(stack)
        self._decoupled = decoupled

    @torch.no_grad()
    def _move(self, rows: slice, columns: slice, gradients: Tensor, steps: Tensor | None) -> None:
        """Move a block along its gradients, as ``torch.optim.Adam`` and ``AdamW`` do."""
        if steps is None:
            raise ValueError("Adam: expected the number of steps of each row, got none.")
        flat, dtype = self.stack.flat[rows, columns], self.stack.flat.dtype
        rate, decay = self.settings["lr"][rows], self.settings["weight_decay"][rows]
        if self.any("weight_decay"):
            if self._decoupled:
                flat.mul_((1 - rate * decay).to(dtype))
            else:
                gradients.addcmul_(flat, decay.to(dtype))
        steps = steps.to(rate)
        beta1, beta2 = self.settings["beta1"][rows], self.settings["beta2"][rows]
        mean, square = self.state["exp_avg"][rows, columns], self.state["exp_avg_sq"][rows, columns]
        mean.lerp_(gradients, (1 - beta1).to(dtype))
        gradients.mul_(gradients).mul_((1 - beta2).to(dtype))
        square.mul_(beta2.to(dtype)).add_(gradients)
        denominator = torch.sqrt(square, out=self.spare[rows, columns])
        denominator.div_((1 - beta2**steps).sqrt().to(dtype)).add_(self.setting("eps", rows, dtype))
        torch.div(mean, denominator, out=denominator)
        flat.addcmul_(denominator, (rate / (1 - beta1**steps)).to(dtype), value=-1)


def kind_of(optimizer: Optimizer) -> type[StackedOptimizer] | None:
    """Stacked optimizer that computes the same as a torch optimizer, or None."""
    return {SGD: StackedSGD, Adam: StackedAdam, AdamW: StackedAdam}.get(type(optimizer))  # type: ignore[return-value]


def stacked_optimizer(stack: Stack, optimizers: Sequence[Optimizer]) -> StackedOptimizer:
    """Optimizer over a stack for participants that agree in the type of theirs and in its ``equal`` settings.

    Args:
        stack: Stack whose rows are stepped, shape ``(N, width)``.
        optimizers: Optimizers of the participants, in the order of the rows.
    """
    groups = [optimizer.param_groups[0] for optimizer in optimizers]
    if kind_of(optimizers[0]) is StackedSGD:
        momentum = any(group["momentum"] for group in groups)
        return StackedSGD(stack, momentum=momentum, nesterov=groups[0]["nesterov"])
    decoupled = isinstance(optimizers[0], AdamW) or bool(groups[0].get("decoupled_weight_decay"))
    return StackedAdam(stack, decoupled=decoupled)


def _number(group: Mapping[str, Any], name: str) -> float:
    return float(group["betas"][int(name[-1]) - 1] if name.startswith("beta") else group[name])
