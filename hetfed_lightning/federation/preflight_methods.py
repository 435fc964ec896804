"""Checks of methods before a run: their exchanges and names, and hooks that nobody would call."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType
from typing import Any

from hetfed_lightning.methods.messages import Exchange
from hetfed_lightning.methods.method import Method

log = logging.getLogger(__name__)

HOOKS = (
    "describe", "groups", "plan", "modules", "example_loss", "weight_term", "after_step", "send", "receive", "combine",
    "inherits", "answers", "is_due",
)  # fmt: skip
"""Hooks whose arguments are given by position."""

SETTINGS = (
    "exchanges", "replaces_state", "needs_steps", "combines_silence", "once", "name", "title", "synchronise_start",
)  # fmt: skip
"""Attributes of a method that a class may set."""

CLOSE = 0.8
"""Likeness of two names, in [0, 1], from which one is taken for the other misspelt."""


def check_methods(callbacks: Iterable[Any]) -> None:
    """Refuse methods whose exchanges, names or hooks' arguments cannot work, and warn of misspelt hooks.

    Args:
        callbacks: Callbacks of the run, of which those that are methods are looked at.

    Raises:
        ValueError: If an exchange or a name is unusable.
        TypeError: If a hook takes another number of arguments.
    """
    for method in callbacks:
        if isinstance(method, Method):
            _check_name(method)
            _check_exchanges(method)
            _check_arguments(method)
            for written, meant in _misspelt(type(method)):
                log.warning(
                    "%s.%s: a method has nothing of that name, and nothing in the class uses it; did you mean %r?",
                    type(method).__name__, written, meant,
                )  # fmt: skip


def _check_name(method: Method) -> None:
    if "." in str(method.name or "") and type(method).modules is not Method.modules:
        raise ValueError(
            f"{type(method).__name__}.name: expected a name without a full stop, which its modules bear in files, got "
            f"{method.name!r}."
        )


def _check_exchanges(method: Method) -> None:
    found: Any = method.exchanges
    where = f"{type(method).__name__}.exchanges"
    if not isinstance(found, Sequence) or not all(isinstance(one, Exchange) for one in found):
        raise ValueError(
            f"{where}: expected Exchanges in a list, got {found!r}. Set (Exchange('end'),), or () for none."
        )
    moments = [one.when for one in found]
    for one in found:
        if one.when not in {"start", "end"} or one.who not in {"sampled", "joined"}:
            raise ValueError(
                f"{where}: expected when to be 'start' or 'end' and who to be 'sampled' or 'joined', got {one!r}."
            )
        if moments.count(one.when) > 1:
            raise ValueError(
                f"{where}: there are {moments.count(one.when)} at the {one.when} of a round. Keep one of them."
            )


def _check_arguments(method: Method) -> None:
    """Refuse hooks that would fail when they are first called, which may be after a round's training."""
    for name in HOOKS:
        own, expected = getattr(type(method), name, None), getattr(Method, name, None)
        if own is expected or expected is None:
            continue
        given = list(inspect.signature(expected).parameters)[1:]
        try:
            signature = inspect.signature(getattr(method, name))
        except (TypeError, ValueError):
            continue
        try:
            signature.bind(*given)
        except TypeError:
            raise TypeError(
                f"{type(method).__name__}.{name}{signature} cannot be called with the {len(given)} arguments of a "
                f"round: {', '.join(given)}. Take all of them, or *args for those that it does not use."
            ) from None


def _misspelt(kind: type) -> Iterator[tuple[str, str]]:
    """Names that classes of a user's own define and nobody uses, each with the hook or setting that it is close to."""
    own = [
        one for one in kind.__mro__ if not one.__module__.startswith(("hetfed_lightning.", "lightning.", "builtins"))
    ]
    used = {name for one in own for value in vars(one).values() for code in _codes(value) for name in code.co_names}
    for one in own:
        for name in vars(one):
            if name.startswith("_") or name in used or hasattr(Method, name):
                continue
            if close := difflib.get_close_matches(name, (*HOOKS, *SETTINGS), n=1, cutoff=CLOSE):
                yield name, close[0]


def _codes(value: Any) -> Iterator[CodeType]:
    """Code of a function and of those in it."""
    for part in (value, getattr(value, "fget", None), getattr(value, "__func__", None)):
        waiting = [getattr(part, "__code__", None)]
        while waiting:
            code = waiting.pop()
            if isinstance(code, CodeType):
                yield code
                waiting.extend(code.co_consts)
