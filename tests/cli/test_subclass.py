"""Subclasses of FederatedCLI: other defaults, options and commands of their own."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningArgumentParser

from hetfed_lightning.cli import FederatedCLI, main
from hetfed_lightning.cli.run import run
from hetfed_lightning.data import FederatedDataModule
from hetfed_lightning.federation.federation import Federation
from tests.cli.commands import hetfed, tiny, written


class AuditCLI(FederatedCLI):
    """A program with a default, an option and a command more."""

    prog = "audit"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"model.engine": "sequential", "threads": 1})
        parser.add_argument("--author", type=str, default="nobody", help="Who asks.")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {**FederatedCLI.subcommands(), "count": {"model", "datamodule"}}

    def count(self, model: Federation, datamodule: FederatedDataModule, least: int = 0) -> None:
        """Prints the number of parameters of every participant.

        Args:
            model: The federation.
            datamodule: Its data.
            least: Smallest number that is printed.
        """
        del datamodule
        print("asked by", self.config["count"]["author"])  # noqa: T201
        for name, participant in model.members().items():
            number = sum(one.numel() for one in participant.parameters())
            if number >= least:
                print(name, number)  # noqa: T201


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def audit(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the program."""
    capsys.readouterr()
    code = run(arguments, AuditCLI)
    logging.getLogger("hetfed_lightning").handlers.clear()
    found = capsys.readouterr()
    return code, found.out, found.err


def test_a_command_of_its_own_gets_the_federation_and_its_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(written(tiny()))
    code, out, _ = audit(capsys, "count", "-c", config, "--author", "me")
    assert (code, out.splitlines()[-3:]) == (
        0,
        ["asked by me", "hospital_a 83", "hospital_b 83"],
    )  # 4 x 6 + 6, 6 x 5 + 5, 5 x 3 + 3.
    monkeypatch.setenv("HETFED_AUTHOR", "them")
    code, out, _ = audit(capsys, "count", "-c", config, "--least", "84")
    assert (code, out.splitlines()[-1]) == (0, "asked by them")


def test_a_default_of_its_own_gives_way_to_the_configuration() -> None:
    config = tiny()
    cli = AuditCLI(["-c", str(written(config))], run=False)
    assert (cli.config.model.engine, cli.config.threads) == ("sequential", 1)
    assert FederatedCLI(["-c", str(written(config))], run=False).config.model.engine == "auto"
    config["model"]["engine"] = "vmap"
    assert AuditCLI(["-c", str(written(config))], run=False).config.model.engine == "vmap"


def test_it_trains_like_hetfed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = audit(capsys, "fit", "-c", str(written(tiny())))
    assert (code, "hospital_a" in out) == (0, True), err


def test_its_help_and_its_errors_have_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    told = audit(capsys, "--help")[1]
    assert told.startswith("usage: audit COMMAND [options]")
    assert "count Prints the number of parameters of every participant. deploy" in " ".join(told.split())
    assert audit(capsys, "--version")[1].startswith("audit, hetfed ")
    code, _, err = audit(capsys, "cuont")
    assert (code, err) == (2, "audit: error: no command 'cuont'; did you mean 'count'?.\n")
    code, _, err = audit(capsys, "count", "-c", "nothing.yaml")
    assert (code, err.startswith("audit: error: ")) == (2, True)
    assert hetfed(capsys, "count").code == 2


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["nothing"], 2)])
def test_main_takes_it_and_exits(arguments: Sequence[str], code: int) -> None:
    with pytest.raises(SystemExit, match=str(code)):
        main(arguments, cli=AuditCLI)
