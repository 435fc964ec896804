"""``torch.compile`` of participants' backbones, in place: states keep their keys, copies are not compiled.

``nn.Module.compile`` would not do, for two reasons. It compiles nothing where the class is torch's own, such as
``nn.Sequential``: dynamo skips those. And graphs are counted by code object, with a limit of eight: of twelve small
architectures that passed through one function, the first four filled the limit and the others ran uncompiled. So every
architecture has two functions of its own, for training and for evaluation; participants of one architecture share them
and their graphs.

A GRU or LSTM stays uncompiled, since dynamo does not compile torch's. A backbone stays uncompiled while it has hooks.

``torch.compile(network)`` returns a wrapper whose state keys begin with ``_orig_mod.``. Inside a participant such a
network has its plain keys: see :func:`keep_plain_names`.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from hetfed_lightning.participants.torch_hooks import anything_has_hooks, has_hooks, registered_hooks

log = logging.getLogger(__name__)

CompileSettings = bool | dict[str, Any]
"""True for torch's defaults, or arguments of ``torch.compile`` by name."""

SETTINGS = ("backend", "dynamic", "fullgraph", "mode", "options")


def settings_of(compile: CompileSettings) -> dict[str, Any] | None:  # noqa: A002 - as torch and users call it
    """Arguments of ``torch.compile`` by name; None for no compilation.

    Raises:
        TypeError: If it is neither True, False nor a mapping, or the backend is no backend.
        ValueError: If an argument is unknown.
    """
    if isinstance(compile, bool):
        return {} if compile else None
    if not isinstance(compile, Mapping):
        raise TypeError(
            f"compile: expected True, False or settings such as {{'mode': 'max-autotune'}}, got {compile!r}."
        )
    unknown = sorted(set(compile) - set(SETTINGS))
    if unknown:
        raise ValueError(f"compile: expected settings out of {', '.join(SETTINGS)}, got {', '.join(unknown)}.")
    backend = compile.get("backend", "inductor")
    if not isinstance(backend, str) and not callable(backend):
        raise TypeError(f"compile: expected a backend by name, such as 'inductor' or 'aot_eager', got {backend!r}.")
    return dict(compile)


def compile_backbone(backbone: nn.Module, settings: Mapping[str, Any], label: str, device: torch.device) -> None:
    """Make calls of a backbone run compiled from now on; it compiles at its first call.

    Args:
        backbone: Module, altered in place; parameters, keys and hooks stay.
        settings: Arguments of ``torch.compile`` by name.
        label: Participant in error messages, which carry it as a note.
        device: Device on which the backbone runs.

    Raises:
        RuntimeError: If no C++ compiler is found, or torch refuses the settings.
    """
    if settings.get("backend", "inductor") == "inductor" and device.type == "cpu":
        _require_cpp(label)
    call: Callable[..., Any] = backbone._call_impl
    architecture = _architecture(backbone)
    by_mode = {}
    for training in (True, False):
        function = _calling(call)
        code = _code_of(architecture, training)
        own = FunctionType(code, function.__globals__, code.co_name, None, function.__closure__)
        try:
            by_mode[training] = torch.compile(own, **settings)
        except Exception as error:
            error.add_note(f"{label}: compile={dict(settings)}")
            raise

    hooked = _Hooked(backbone, label)

    def run(*args: Any, **kwargs: Any) -> Any:
        if hooked.now():
            return call(*args, **kwargs)
        try:
            return by_mode[backbone.training](*args, **kwargs)
        except Exception as error:
            error.add_note(f"in the compiled backbone of {label}; Participant(compile=False) runs it as it is")
            raise

    # The attribute that `Module.compile` sets: `Module.__call__` prefers it, copies and pickles leave it out.
    backbone._compiled_call_impl = run


WRAPPED = "_orig_mod"
"""Attribute under which ``torch.compile(module)`` holds the wrapped module."""


def plain_name(key: str) -> str:
    """Key or module name without the parts that ``torch.compile(module)`` inserts."""
    return key.replace(f"{WRAPPED}.", "").removesuffix(f".{WRAPPED}") if WRAPPED in key else key


def is_wrapped(module: nn.Module) -> bool:
    """True if a module, or one inside it, is a wrapper made by ``torch.compile(module)``."""
    return any(WRAPPED in part._modules for part in module.modules())


def keep_plain_names(module: nn.Module) -> None:
    """Make the states of compiled modules inside a module have their uncompiled keys.

    So a participant with a hand-compiled backbone averages with uncompiled ones, and both read each other's
    checkpoints. States with ``_orig_mod.`` can be loaded as well.

    Args:
        module: Module, altered in place; a second call changes nothing.
    """
    for part in module.modules():
        if WRAPPED in part._modules and _leave_out not in part._state_dict_hooks.values():
            part.register_state_dict_post_hook(_leave_out)
            part.register_load_state_dict_pre_hook(_put_in)


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    del module, metadata
    wrapped = f"{prefix}{WRAPPED}."
    for key in [key for key in state if key.startswith(wrapped)]:
        state[f"{prefix}{key.removeprefix(wrapped)}"] = state.pop(key)


def _put_in(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    del module, rest
    wrapped = f"{prefix}{WRAPPED}."
    for key in [key for key in state if key.startswith(prefix) and not key.startswith(wrapped)]:
        state[f"{wrapped}{key.removeprefix(prefix)}"] = state.pop(key)


class _Hooked:
    """Presence of hooks on a module and what is in it; dynamo does not look again once it has compiled.

    It would pass over hooks registered later, and go on with hooks that were removed.
    """

    def __init__(self, module: nn.Module, label: str) -> None:
        self._module, self._label = module, label
        self._known, self._found, self._told = -1, False, False

    def now(self) -> bool:
        """True if there are any; looked for once a hook was registered somewhere, or if some were found last time."""
        registered = registered_hooks()
        if self._found or registered != self._known:
            self._known = registered
            self._found = anything_has_hooks() or any(map(has_hooks, self._module.modules()))
        if self._found and not self._told:
            self._told = True
            log.info("%s: its backbone runs uncompiled while there are hooks on it.", self._label)
        return self._found


def _calling(call: Callable[..., Any]) -> FunctionType:
    def backbone(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    assert isinstance(backbone, FunctionType)  # noqa: S101 - narrows the type
    return backbone


@cache
def _code_of(architecture: str, training: bool) -> CodeType:
    """A code object of its own for every architecture: dynamo keeps graphs, and counts them, by code object."""
    del architecture
    return _calling(id).__code__.replace(co_name="backbone_in_training" if training else "backbone_in_evaluation")


def _architecture(module: nn.Module) -> str:
    shapes = [(key, tuple(tensor.shape), tensor.dtype) for key, tensor in module.state_dict(keep_vars=True).items()]
    return f"{type(module).__module__}.{type(module).__qualname__}: {module!r} {shapes}"


def _require_cpp(label: str) -> None:
    """Refuse by name what would fail in the first step, on a page of the compiler's own."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", usual)
    if shutil.which(compiler) is None:
        raise RuntimeError(
            f"{label}: compile needs a C++ compiler where it runs on a CPU, and there is no {compiler!r}. Install one "
            "(apt-get install g++), name it in the environment variable CXX, or leave compile out."
        )
