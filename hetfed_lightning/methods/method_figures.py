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
    alike = any(one is not method and _are_of_one_kind(one, method) for one in methods)
    return f"/{method.name}" if alike and method.name is not None else ""


def _are_of_one_kind(one: Titled, other: Titled) -> bool:
    """True if a class of the two is the other's, or extends it."""
    return isinstance(one, type(other)) or isinstance(other, type(one))


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
                remedy = "give it a name, which its tags then end with" if _are_of_one_kind(owner, method) else ""
                raise MessageError(
                    f"Round {round_index}: {method.title}.combine: {tag} is a figure of {owner.title} "
                    f"({type(owner).__name__}), and {type(method).__name__} has one of that name too. Choose another "
                    f"key in Combined(figures=...){remedy and f', or {remedy}'}."
                )
            found[tag] = value
        return found
