"""Published methods, found by walking their folder."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

from hetfed_lightning import Method, Participant
from hetfed_lightning.methods import published
from tests.federations import tiny_participant


def methods() -> Iterator[type[Method]]:
    """Every method of the folder."""
    for info in pkgutil.iter_modules(published.__path__, f"{published.__name__}."):
        module = importlib.import_module(info.name)
        for thing in vars(module).values():
            if inspect.isclass(thing) and issubclass(thing, Method) and thing.__module__ == module.__name__:
                yield thing


METHODS = {kind.__name__: kind for kind in methods()}

ONE_BACKBONE = {"AFL"}
"""Those that refuse backbones of different values."""


def made_alike(kind: type[Method], participant: Participant) -> None:
    """Give a tiny participant the backbone of all others, for methods that need it."""
    if kind.__name__ in ONE_BACKBONE:
        participant.backbone.load_state_dict(tiny_participant().backbone.state_dict())
