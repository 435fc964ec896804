"""A program that does what ``hetfed deploy local`` does, with an app that learns nothing: FOLDER MODE KEY=VALUE..."""

import json
import sys
from pathlib import Path

from hetfed_lightning.flower.deploy.follow_run import run_app
from tests.flower.engines import EMPTY_APP, empty_engine


def main(folder: str, mode: str, *settings: str) -> int:
    """Run the app; the first line says by which mark its processes are found."""
    engine = empty_engine(Path(folder), "clinic", "hospital", encrypted=mode == "encrypted")
    sys.stdout.write(f"MARK {engine.mark}\n")
    sys.stdout.flush()
    config = {name: json.loads(value) for name, _, value in (setting.partition("=") for setting in settings)}
    return run_app(engine, EMPTY_APP, config)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
