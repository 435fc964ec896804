"""Helps of commands: each option that promises the help of a class gives it, and no option is left out."""

import re

import pytest

import hetfed_lightning as hf
from hetfed_lightning import data, showcases
from hetfed_lightning.cli.commands import COMMANDS
from hetfed_lightning.cli.help_text import help_text
from tests.cli.commands import hetfed

LISTED = (hf.Participant, hf.MultiInputParticipant, hf.ParticipantGroup)
PROMISES = {
    "trainer.accelerator": ("CPUAccelerator", ""),
    "trainer.strategy": ("hetfed_lightning.FederatedStrategy", "layout"),
    "trainer.logger": ("CSVLogger", "flush_logs_every_n_steps"),
    "trainer.callbacks": ("hetfed_lightning.BackboneAveraging", "every_n_rounds"),
    "trainer.profiler": ("SimpleProfiler", "extended"),
    "trainer.plugins": ("MixedPrecision", "precision"),
    "model.participants": ("hetfed_lightning.MultiInputParticipant", "local_epochs"),
    "model.student": ("Participant", "backbone"),
    "data": ("NPZDataModule", "own_fractions"),
}
"""A class and one of its arguments, by the option whose help promises to list them."""


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that asks for help prints, on one line, before it ends with code 0."""
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        hetfed(capsys, *arguments)
    return " ".join(capsys.readouterr().out.split())


def test_the_help_of_fit_keeps_its_promises(capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, "fit", "--help")
    assert set(re.findall(r"--([\w.]+)\.help", told.partition("Beside these:")[0])) == set(PROMISES)
    beside = [told, *(shown(capsys, one, "--help") for one in ("compare", "join"))]
    for option in (
        "-c FILE",
        "hetfed:NAME",
        "--method NAME",
        "--method.KEY",
        "--allow_import",
        "--threads",
        "HETFED_CONFIG",
    ):
        assert all(option in one for one in beside)
    unbroken = told.replace(" ", "")  # Long names are cut at the end of a line.
    for place in (data, showcases):
        for name in place.__all__:
            found = getattr(place, name)
            if isinstance(found, type) and issubclass(found, hf.FederatedDataModule):
                assert name in unbroken
    for kind in LISTED:
        assert f"hetfed_lightning.{kind.__name__}" in unbroken


@pytest.mark.parametrize("option", PROMISES)
def test_the_help_of_a_class_lists_its_arguments(capsys: pytest.CaptureFixture[str], option: str) -> None:
    name, argument = PROMISES[option]
    told = shown(capsys, "fit", f"--{option}.help", name)
    assert f"--{option}.{argument}" in told or not argument
    assert told.startswith("usage:")


def test_the_help_of_data_alone_lists_what_every_data_module_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data.batch_size" in shown(capsys, "fit", "--data.help")


def test_a_help_has_the_sentences_of_a_docstring_and_no_sections() -> None:
    def command(arguments: list[str]) -> int:
        """``hetfed one``: does one
        thing. And another.

        Args:
            arguments: Words.

        Returns:
            0.
        """
        return len(arguments)

    assert help_text(command) == "`hetfed one`: does one thing. And another."


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    told = shown(capsys, command, "--help")
    assert told.startswith("usage: hetfed")
    assert command in told
    assert not [word for word in ("``", "Args:", "Raises:", "Returns:") if word in told.partition("options:")[0]]
