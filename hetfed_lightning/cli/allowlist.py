"""Names that a configuration may use: a YAML file by another author must not run code of its choice.

All are denied but the packages below and those of ``--allow_import``. Whole packages would be too much. A path may name
a function too, which is called with the arguments below it, and some functions import a module by its name, run a file,
delete a folder or fetch a model (``torch.hub``, ``lightning.pytorch.cli.instantiate_class``,
``torchmetrics.text.BERTScore``). Configurations are not fetched from addresses either, as Lightning would do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib import invalidate_caches
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

from jsonargparse import _common as jsonargparse_common
from jsonargparse import set_parsing_settings
from jsonargparse._util import import_object

from hetfed_lightning._lazy import import_all
from hetfed_lightning._moved import MODULES, NAMES

ALLOWED = (
    "hetfed_lightning",
    "lightning.fabric.plugins.precision",
    "lightning.pytorch.accelerators",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.cli.LRSchedulerCallable",
    "lightning.pytorch.cli.OptimizerCallable",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "lightning.pytorch.loggers",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
    "lightning.pytorch.strategies",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
)

OPEN = frozenset(
    {
        *("aggregation", "backbones", "callbacks", "data", "distillation", "heads", "layers", "metrics"),
        *("showcases", "strategies"),
        *("federated_callback", "federation.federation", "methods", "privacy", "schedules", "tasks"),
        *(f"participants.{one}" for one in ("groups", "multi_input", "participant", "transfer")),
    }
)
"""Modules of this package whose classes a configuration may name; all others are closed.

``methods`` is open as a whole, so that a new method needs no entry: nothing in it opens a file, starts a program or
imports a module, whatever its arguments are. What it calls (rules, optimizers, ensembles) has to be allowed itself.
"""


def _closed(folder: Path = Path(__file__).parent.parent, inside: str = "") -> Iterator[str]:
    """Dotted names, below this package, of the outermost modules that are not open."""
    for one in iter_modules([str(folder)]):
        name = f"{inside}{one.name}"
        if any(path.startswith(f"{name}.") for path in OPEN):
            yield from _closed(folder / one.name, f"{name}.")
        elif name not in OPEN:
            yield name


CLOSED = (*_closed(), "methods.averaging.column_checks")
"""Dotted names, below this package, of the outermost closed modules."""


def _old_names(*, closed: bool) -> Iterator[str]:
    """Old dotted names of modules and classes that are closed, or open, under their present names."""
    for old, new in (MODULES | NAMES).items():
        if closed == any(f"{new}.".startswith(f"{module}.") for module in CLOSED):
            yield f"hetfed_lightning.{old}"


DENIED = (
    "*",
    *(f"hetfed_lightning.{one}" for one in CLOSED),
    *_old_names(closed=True),
    "hetfed_lightning.data.optional",  # Imports a module by its name, as do the next three.
    "lightning.fabric.plugins.precision.utils",
    "torch.nn.attention",
    "torch.nn.utils",
    "lightning.pytorch.accelerators.cuda.get_nvidia_gpu_stats",  # Runs a program, as do launchers.
    *(f"lightning.pytorch.strategies.{one}" for one in ("launchers", "deepspeed", "fsdp", "model_parallel", "xla")),
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint._link_checkpoint",  # Deletes a folder.
    "lightning.pytorch.loggers.wandb.WandbLogger.download_artifact",  # Fetches and writes files, as metrics below do.
    *(f"torchmetrics.{above}{domain}"
      for above in ("", "functional.")
      for domain in ("audio", "detection", "image", "multimodal", "text", "video")),
    "torchmetrics.utilities",
)  # fmt: skip


def restrict_imports(extra: Sequence[str] = (), beside: Iterable[Path] = ()) -> None:
    """Allow configurations to name the packages of ``ALLOWED`` and these alone, in this process and from now on.

    Args:
        extra: Dotted paths of packages, modules or objects to allow as well, such as the user's own package; they may
            lie in the current folder.
        beside: Folders of the configurations, in which they may lie as well.

    Raises:
        ValueError: If an entry is no dotted path, or would allow everything.
    """
    _allow(extra)
    _BESIDE.look_for({one.partition(".")[0] for one in extra}, beside)
    set_parsing_settings(config_read_mode_urls_enabled=False, config_read_mode_fsspec_enabled=False)


@contextmanager
def restricted_imports(extra: Sequence[str] = ()) -> Iterator[None]:
    """Context in which these packages alone are allowed, for use inside of another program.

    Args:
        extra: Dotted paths to allow as well, as for :func:`restrict_imports`.
    """
    before = deepcopy(jsonargparse_common.parsing_settings)
    try:
        _allow(extra)
        yield
    finally:
        jsonargparse_common.parsing_settings.clear()
        jsonargparse_common.parsing_settings.update(before)


def _allow(extra: Sequence[str]) -> None:
    import_all("hetfed_lightning")  # Of imported classes one may be named without its module.
    if extra and str(Path.cwd()) not in sys.path:  # As under `python -m`; a console script starts without it.
        sys.path.append(str(Path.cwd()))
    allowed = [*ALLOWED, *_old_names(closed=False), *extra]
    # jsonargparse only adds to its lists, so paths that an earlier command of this process allowed are denied again.
    before: dict[str, bool] = jsonargparse_common.parsing_settings["import_path_verdicts"]
    stale = [path for path, may_be_named in before.items() if may_be_named and path not in allowed]
    set_parsing_settings(import_path_denylist=[*DENIED, *stale], import_path_allowlist=allowed)


def allowed_class(path: str) -> type | None:
    """The class of a dotted path, if configurations may name it and it can be imported.

    Args:
        path: Value of a ``class_path``.
    """
    try:
        found = import_object(path)
    except Exception:  # noqa: BLE001 - whoever makes the class says what is wrong with it
        return None
    return found if isinstance(found, type) else None


class _Beside(MetaPathFinder):
    """Finder of modules beside a configuration: of allowed ones alone, and of those that are found nowhere else."""

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()
        self._folders: list[str] = []

    def look_for(self, names: Iterable[str], folders: Iterable[Path]) -> None:
        """Find these names, without what lies below them, in these folders from now on."""
        self._names, self._folders = frozenset(names), [str(one.absolute()) for one in folders]
        if self not in sys.meta_path:
            sys.meta_path.append(self)
        invalidate_caches()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Spec of an allowed module."""
        del path
        return PathFinder.find_spec(fullname, self._folders, target) if fullname in self._names else None


_BESIDE = _Beside()
