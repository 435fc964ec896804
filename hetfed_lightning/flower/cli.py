"""``hetfed deploy``: dispatch to its subcommands, each imported when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data.name_checks import did_you_mean

COMMANDS = {
    "init": ("hetfed_lightning.flower.init", "init_command", "writes what the coordinator and each site need"),
    "keys": ("hetfed_lightning.flower.deploy.keys", "keys_command", "makes certificates and keys for trying it out"),
    "coordinator": (
        "hetfed_lightning.flower.deploy.coordinator_command",
        "coordinator_command",
        "leads a run between sites",
    ),
    "site": (
        "hetfed_lightning.flower.deploy.site_command",
        "site_command",
        "takes part in runs, with this site's data",
    ),
    "local": ("hetfed_lightning.flower.deploy.local", "local_command", "runs all of it on this machine"),
}
"""Module, function, and line of help of each subcommand."""
NEEDED = ("flwr", "cryptography")


def main(arguments: Sequence[str]) -> int:
    """A federation between institutions: `init CONFIG` writes it, `local` tries it, `coordinator` and `site` run it.

    Args:
        arguments: Command line after ``hetfed deploy``.

    Returns:
        The exit code.

    Raises:
        ConfigError: If the extra is not installed, there is no such subcommand, or its arguments cannot be used.
    """
    command, *rest = arguments or ["--help"]
    if command in {"-h", "--help"}:
        print(_help())  # noqa: T201  # a command line prints its help
        return 0
    if command not in COMMANDS:
        raise ConfigError(f"hetfed deploy: no command {command!r}{did_you_mean(command, COMMANDS)}.")
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"hetfed deploy needs {' and '.join(missing)}, which this environment has not: "
            "pip install 'hetfed-lightning[flower]'."
        )
    module, function, _ = COMMANDS[command]
    return getattr(import_module(module), function)(rest) or 0


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {does}" for name, (_, _, does) in COMMANDS.items()]
    return "\n".join(["usage: hetfed deploy {" + ",".join(COMMANDS) + "} ...", "", *lines])
