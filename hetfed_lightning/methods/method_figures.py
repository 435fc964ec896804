"""Tags under which the figures of a run's methods are logged, each of one method alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from hetfed_lightning.methods.messages import MessageError


class Titled(Protocol):
    """A method, as far as it is told apart from others of its kind."""

    name: str | None

    @property
    def title(self) -> str:
        """Name of the method in tags and messages."""


def figure_suffix(method: Titled, methods: Iterable[Titled]) -> str:
    """End of the tags of a method's figures: ``"/NAME"`` of one that has others of its kind beside it, else empty.

    Args:
        method: The method.
        methods: All methods of the run.
    """
    alike = any(one is not method and _kind(one) == _kind(method) for one in methods)
    return f"/{method.name}" if alike and method.name is not None else ""


def _kind(method: Titled) -> str:
    return method.title if method.name is None else method.title.removesuffix(f":{method.name}")


class MethodFigures:
    """Owners of the figures that methods log in one run.

    Args:
        methods: Methods of the run.
    """

    def __init__(self, methods: Iterable[Titled] = ()) -> None:
        self._methods = list(methods)
        self._owners: dict[str, Titled] = {}

    def tagged(self, method: Titled, figures: Mapping[str, float], round_index: int) -> dict[str, float]:
        """Figures of a method by tag, such as ``"federation/divergence"``.

        Args:
            method: Method that logs them.
            figures: Numbers by key.
            round_index: Index of the round, from 0.

        Raises:
            MessageError: If another method has logged one of that tag; names both.
        """
        suffix, found = figure_suffix(method, self._methods), {}
        for key, value in figures.items():
            tag = f"federation/{key}{suffix}"
            if (owner := self._owners.setdefault(tag, method)) is not method:
                raise MessageError(
                    f"Round {round_index}: {method.title}.combine: {tag} is a figure of {owner.title} "
                    f"({type(owner).__name__}), and {type(method).__name__} has one of that name too. Give it another "
                    f"key in Combined(figures=...), or set {type(method).__name__}.name if both are of one kind."
                )
            found[tag] = value
        return found
