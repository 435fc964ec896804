"""Hooks of torch on modules' passes, on tensors' gradients and on optimizers' steps.

A fleet computes without its members' own modules and optimizers, and compiled code without later hooks: neither would
call these.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers
from torch.utils.hooks import RemovableHandle

MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Attributes of a module with its hooks."""

_OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")

_GLOBAL = (
    *((modules, f"_global{name}") for name in MODULE_HOOKS),
    *((optimizers, name) for name in ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")),
)

tensor_hooks_of: Callable[[Any], Any] = attrgetter("_backward_hooks")
"""Hooks called with a tensor's gradient; None if there are none."""

accumulation_hooks_of: Callable[[Any], Any] = attrgetter("_post_accumulate_grad_hooks")
"""Hooks called after a tensor's gradient was accumulated; None if there are none."""


def registered_hooks() -> int:
    """Number of hooks of any kind registered so far in this process; equal numbers mean no new hook in between."""
    return RemovableHandle.next_id


def anything_has_hooks() -> bool:
    """True if hooks are registered for all modules or all optimizers of the process."""
    return any(getattr(place, name, None) for place, name in _GLOBAL)


def has_hooks(module: nn.Module) -> bool:
    """True if a module has hooks around its forward or backward pass."""
    state = vars(module)
    return any(state.get(name) for name in MODULE_HOOKS)


def tensor_has_hooks(tensor: Tensor) -> bool:
    """True if a tensor has hooks on its gradient."""
    return bool(tensor_hooks_of(tensor) or accumulation_hooks_of(tensor))


def optimizer_has_hooks(optimizer: Optimizer) -> bool:
    """True if an optimizer has hooks around its steps."""
    state = vars(optimizer)
    return any(state.get(name) for name in _OPTIMIZER_HOOKS)


def steps_its_own_way(optimizer: Optimizer) -> bool:
    """True if an optimizer's ``step`` was replaced by anything but the counter of torch's schedulers."""
    step = vars(optimizer).get("step")
    return step is not None and not getattr(step, "_wrapped_by_lr_sched", False)
