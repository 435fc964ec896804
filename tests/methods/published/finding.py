"""Published methods, found by walking their folder."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

from hetfed_lightning import Method
from hetfed_lightning.methods import published


def methods() -> Iterator[type[Method]]:
    """Every method of the folder."""
    for info in pkgutil.iter_modules(published.__path__, f"{published.__name__}."):
        module = importlib.import_module(info.name)
        for thing in vars(module).values():
            if inspect.isclass(thing) and issubclass(thing, Method) and thing.__module__ == module.__name__:
                yield thing


METHODS = {kind.__name__: kind for kind in methods()}
