"""The commands of ``hetfed``: what each does, and where its function lies. Nothing of it is imported here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Command:
    """One command of the package.

    Attributes:
        sentence: What it does, for ``hetfed --help``.
        place: Function of the command line after the command's name, as ``module:function``; empty for a subcommand of
            :class:`~hetfed_lightning.cli.command.FederatedCLI`.
        needs_torch: False for a command that is started without torch.
    """

    sentence: str
    place: str = ""
    needs_torch: bool = True

    def load(self) -> Callable[[Sequence[str]], Any]:
        """Function of the command."""
        module, _, name = self.place.partition(":")
        found: Callable[[Sequence[str]], Any] = getattr(import_module(module), name)
        return found


_CLI = "hetfed_lightning.cli"

COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "examples": Command(
            "Lists the configurations that come with the package, and copies one of them.",
            f"{_CLI}.examples:examples_command",
            needs_torch=False,
        ),
        "doctor": Command(
            "Prints versions, devices, extras and threads, and where data and runs lie.",
            f"{_CLI}.doctor:doctor_command",
            needs_torch=False,
        ),
        "fit": Command("Trains a federation and writes its logs, its record and its checkpoints."),
        "validate": Command("Measures every participant on the validation sets."),
        "test": Command("Measures every participant on the test sets."),
        "predict": Command("Writes a row of predictions for each example of the test sets, or of a new file."),
        "compare": Command(
            "Trains federation, local only and centralised on the same seeds and prints one table of them.",
            f"{_CLI}.compare:compare_command",
        ),
        "benchmark": Command(
            "Runs methods by data sets by seeds, beside local only and the simplest models.",
            f"{_CLI}.benchmark.command:benchmark_command",
        ),
        "report": Command(
            "Makes one page of what runs or a comparison did.",
            f"{_CLI}.report.command:report_command",
            needs_torch=False,
        ),
        "export": Command(
            "Takes one participant out of a checkpoint, into a folder that stands alone.",
            f"{_CLI}.export:export_command",
        ),
        "join": Command("Adds one participant to a trained federation.", f"{_CLI}.join:join_command"),
        "leave": Command("Removes one participant from a trained federation.", f"{_CLI}.leave:leave_command"),
        "completion": Command(
            "Prints a script with which a shell completes commands and options.",
            f"{_CLI}.completion:completion_command",
        ),
    }
)  # fmt: skip
"""Commands of the package by name, in the order of the help."""

INSTALLED: Mapping[str, str] = MappingProxyType(
    {
        "deploy": "Runs a federation between institutions: `init` writes its files, `local` tries it, `coordinator` "
        "and `site` run it."
    }
)
"""Sentences on commands that the package's own distribution adds as other packages do."""
