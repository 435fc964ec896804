"""No checkpoint runs code, whichever way it is loaded, and none is fetched from an address."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hetfed_lightning import FederatedDataModule, Federation, Participant
from hetfed_lightning.checkpointing.reading import read_checkpoint
from tests.cli.commands import Ended, hetfed, tiny, written
from tests.cli.conftest import _process_before_a_command  # noqa: F401 - takes back what a command leaves
from tests.conftest import Tally
from tests.federations import fit, tiny_data, tiny_federation, tiny_participant, trainer
from tests.security.payloads import MARK, payloads
from tests.security.watch import watched

pytestmark = pytest.mark.promise("checkpoint code")

ADDRESSES = (
    "http://127.0.0.1:9/run.ckpt", "https://127.0.0.1:9/run.ckpt", "ftp://127.0.0.1:9/run.ckpt", "s3://bucket/run.ckpt",
    "gs://bucket/run.ckpt", "hf://somebody/run.ckpt", "file:///run.ckpt", "memory://run.ckpt",
    "simplecache::http://127.0.0.1:9/run.ckpt", "zip://run.ckpt::http://127.0.0.1:9/runs.zip",
)  # fmt: skip
COMMANDS = ("fit", "validate", "test", "predict", "export", "join", "leave")
Loader = Callable[[Any], Any]


def loaders() -> dict[str, Loader]:
    """Everything in Python that reads a checkpoint."""

    def run(method: str, path: Any) -> None:
        options = {} if method in {"fit", "predict"} else {"verbose": False}
        getattr(trainer(2), method)(tiny_federation("ab"), datamodule=tiny_data("ab"), ckpt_path=path, **options)

    members = {name: tiny_participant() for name in "ab"}
    found: dict[str, Loader] = {name: partial(run, name) for name in ("fit", "validate", "test", "predict")}
    return found | {
        "federation": lambda path: Federation.load_from_checkpoint(path, participants=members),
        "participant": lambda path: Participant.load_from_checkpoint(
            path, "a", backbone=nn.Sequential(nn.Linear(4, 5)), head=nn.Linear(5, 3)
        ),
        "data": FederatedDataModule.load_from_checkpoint,
        "read": read_checkpoint,
    }


def by_command(capsys: pytest.CaptureFixture[str], command: str, path: Any, *trusted: str) -> Ended:
    more = ("--participant", "hospital_a") if command in {"export", "leave"} else ()
    output = ("--output", "written") if command in {"export", "join", "leave"} else ()
    return hetfed(capsys, command, "-c", written(tiny()), "--ckpt_path", path, *more, *output, *trusted)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A checkpoint as a run saves it."""
    path = tmp_path / "whole.ckpt"
    fit(tiny_federation("ab"), tiny_data("ab"), 1).save_checkpoint(path)
    return path


def stood(load: Loader, path: Any, words: str) -> bool:
    """Whether nothing ran, and an error names the file and says ``words``.

    Of two entries of one name torch reads one alone, whose content is right: there is nothing to refuse.
    """
    two = "second" in str(path)
    with watched() as events:
        try:
            load(path)
            told = f"{path} {words}" if two else ""
        except (ValueError, FileNotFoundError) as error:
            told = str(error)
    ran = Path(MARK).exists() or bool(events)
    Path(MARK).unlink(missing_ok=True)
    return not ran and Path(str(path)).name in told and words in told


def test_no_pickle_runs(whole: Path, full: bool, tally: Tally) -> None:
    ways = list(loaders().items())
    cases = [(name, path, way) for name, path in payloads(whole) for way in ways]
    if not full:  # Each payload once, by another loader each time.
        cases = [cases[len(ways) * place + place % len(ways)] for place in range(len(cases) // len(ways))]
    assert len({name for name, *_ in cases}) == 30
    bad = [(name, way[0]) for name, path, way in cases if not stood(way[1], path, "cannot be read")]
    tally(tried=len(cases), held=len(cases) - len(bad))
    assert not bad


def test_no_pickle_runs_by_a_command(capsys: pytest.CaptureFixture[str], whole: Path, full: bool, tally: Tally) -> None:
    # The file with two entries of one name is of another federation here, and refused as such.
    cases = [(path, command) for _, path in payloads(whole) for command in COMMANDS]
    cases = cases if full else cases[::73]
    bad = []
    for path, command in cases:
        with watched() as events:
            ended = by_command(capsys, command, path)
        if events or Path(MARK).exists() or ended.code != 2 or path.name not in ended.err or "Traceback" in ended.err:
            bad.append((path, command, ended, events))
    tally(tried=len(cases), held=len(cases) - len(bad))
    assert not bad


def test_no_address_is_asked(full: bool, tally: Tally) -> None:
    ways = list(loaders().items())
    cases = [(address, way) for address in ADDRESSES for way in ways]
    cases = cases if full else cases[::3]
    bad = [(address, way[0]) for address, way in cases if not stood(way[1], address, "expected a checkpoint file on")]
    tally(tried=len(cases), held=len(cases) - len(bad))
    assert not bad


def test_no_address_is_asked_by_who_trusts_it() -> None:
    with watched() as events, pytest.raises(ValueError, match="expected a checkpoint file on this machine"):
        Federation.load_from_checkpoint(ADDRESSES[0], participants={"a": tiny_participant()}, weights_only=False)
    assert not events


@pytest.mark.parametrize("trusted", [(), ("--weights_only", "false")], ids=["", "trusted"])
def test_no_address_is_asked_by_a_command(
    capsys: pytest.CaptureFixture[str], full: bool, tally: Tally, trusted: tuple[str, ...]
) -> None:
    commands = COMMANDS[:4] if trusted else COMMANDS
    cases = [(address, command) for address in ADDRESSES for command in commands]
    cases = cases if full else cases[::41]
    held = 0
    for address, command in cases:
        with watched() as events:
            ended = by_command(capsys, command, address, *trusted)
        held += ended.code == 2 and address in ended.err and not events
    tally(tried=len(cases), held=held)
    assert held == len(cases)


def test_no_function_is_called_by_the_name_that_hyperparameters_have(whole: Path, tally: Tally) -> None:
    names = ("lightning.pytorch.cli.instantiate_module", "os.system", "hostile.make")
    keys = ("hyper_parameters", "datamodule_hyper_parameters", "hparams", "module_arguments")
    ways, held = loaders(), 0
    for name in names:
        for key in keys:
            content = read_checkpoint(whole) | {key: {"_instantiator": name, "_class_path": "torch.nn.Linear"}}
            torch.save(content, "named.ckpt")
            held += sum(stood(ways[way], Path("named.ckpt"), "names a function") for way in ("federation", "data"))
    tally(tried=2 * len(names) * len(keys), held=held)
    assert held == 2 * len(names) * len(keys)


@pytest.mark.filterwarnings("ignore:.*TorchScript archive")
def test_a_scripted_module_is_no_checkpoint(tally: Tally) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save("scripted.ckpt")
    held = sum(stood(load, Path("scripted.ckpt"), "cannot be read") for load in loaders().values())
    tally(tried=len(loaders()), held=held)
    assert held == len(loaders())


def test_what_is_right_is_loaded(whole: Path) -> None:
    with watched() as events:
        for name, load in loaders().items():
            if name != "participant":
                load(whole)
    assert not events


def test_a_file_of_hyperparameters_is_not_read(whole: Path) -> None:
    with pytest.raises(TypeError, match=r"hparams_file=\.\.\.\): give the arguments of the constructor"):
        Federation.load_from_checkpoint(whole, hparams_file="hparams.yaml")
