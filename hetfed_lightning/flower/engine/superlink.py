"""A SuperLink behind our guard: ``python -P superlink.py --operator-secret FILE``, then options of flower-superlink.

The engine's own has one port for sites and for whoever starts runs, stops them and registers keys, and does not ask the
latter who they are. Here sites get what is theirs, and everything else wants the operator's secret.

A program, not a module to be imported: the package's own imports would cost its start seconds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

if __name__ == "__main__":
    _package = ModuleType("hetfed_lightning")  # the modules below it, without what it imports itself
    _package.__path__ = [str(Path(__file__).resolve().parents[2])]
    sys.modules["hetfed_lightning"] = _package

from flwr.superlink import main as superlink
from flwr.superlink.cli.flower_superlink import flower_superlink

from hetfed_lightning.flower.engine.guard import Guard
from hetfed_lightning.flower.engine.operator_secret import read_secret


def main() -> None:
    """Run the SuperLink behind the guard."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--operator-secret", type=Path, required=True)
    options, rest = parser.parse_known_args()
    secret = read_secret(options.operator_secret)
    made = superlink.create_app

    def guarded(*arguments: Any, **settings: Any) -> Any:
        app = made(*arguments, **settings)
        app.add_middleware(Guard, secret=secret)
        return app

    superlink.create_app = guarded
    sys.argv = ["flower-superlink", *rest]
    flower_superlink()


if __name__ == "__main__":
    main()
