"""Hooks of torch: what is called around the passes of a module, the gradient of a tensor, the steps of an optimizer.

A fleet computes past the members' own modules and optimizers, and compiled code past hooks that came after it: none of
these would be called.
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
"""Attributes of a module that hold its hooks."""

_OPTIMIZER_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")

_GLOBAL = (
    *((modules, f"_global{name}") for name in MODULE_HOOKS),
    *((optimizers, name) for name in ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")),
)

tensor_hooks_of: Callable[[Any], Any] = attrgetter("_backward_hooks")
"""Hooks that are called with a tensor's gradient; None without any."""

accumulation_hooks_of: Callable[[Any], Any] = attrgetter("_post_accumulate_grad_hooks")
"""Hooks that are called once a tensor has its gradient; None without any."""


def registered_hooks() -> int:
    """Number of hooks of any kind that were ever registered in this process: no new one while it stands still."""
    return RemovableHandle.next_id


def anything_has_hooks() -> bool:
    """Whether hooks are registered for the modules or the optimizers of the whole process."""
    return any(getattr(place, name, None) for place, name in _GLOBAL)


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called around a module's forward or backward pass."""
    state = vars(module)
    return any(state.get(name) for name in MODULE_HOOKS)


def tensor_has_hooks(tensor: Tensor) -> bool:
    """Whether something is called with a tensor's gradient."""
    return bool(tensor_hooks_of(tensor) or accumulation_hooks_of(tensor))


def optimizer_has_hooks(optimizer: Optimizer) -> bool:
    """Whether something is called around an optimizer's steps."""
    state = vars(optimizer)
    return any(state.get(name) for name in _OPTIMIZER_HOOKS)


def steps_its_own_way(optimizer: Optimizer) -> bool:
    """Whether an optimizer's ``step`` was replaced by something else than the counter of torch's schedulers."""
    step = vars(optimizer).get("step")
    return step is not None and not getattr(step, "_wrapped_by_lr_sched", False)
