"""What leaves a participant: the shared state, predictions on the public set, metrics; an exported one alone."""

import io
import pickle
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Participant
from hetfed_lightning.aggregation import weighted_mean
from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.cli.export import load_participant
from hetfed_lightning.distillation import MeanProbabilities
from tests.cli.commands import hetfed, tiny, written
from tests.cli.conftest import _process_before_a_command  # noqa: F401 - takes back what a command leaves
from tests.conftest import Tally
from tests.federations import fit, tiny_data, tiny_federation, trainer

SGD = partial(torch.optim.SGD, lr=0.1)


def content(*tensors: Tensor) -> list[bytes]:
    """The bytes of tensors; those of one value are in every file."""
    return [one.detach().cpu().contiguous().numpy().tobytes() for one in tensors if one.numel() > 1]


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


WAYS: dict[str, Callable[[Participant], bytes]] = {
    "state": lambda one: saved(one.state_dict()),
    "module": saved,
    "pickle": pickle.dumps,
    "copy": lambda one: pickle.dumps(deepcopy(one)),
    "state of a copy": lambda one: saved(deepcopy(one).state_dict()),
    "state_of": lambda one: saved(one.state_of(list(one.state_dict()))),
}


class WrittenInAFleet(L.Callback):
    """Writes every participant in every way after a step, while all of them are views of one stack."""

    def __init__(self) -> None:
        self.tried = 0
        self.bad: list[tuple[str, str]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        del trainer, outputs, batch
        if batch_idx:
            return
        members = pl_module.members()
        own = {name: content(*one.parameters()) for name, one in members.items()}
        for name, one in members.items():
            assert one.head.weight.untyped_storage().nbytes() > one.head.weight.nbytes
            others = [part for other, parts in own.items() if other != name for part in parts]
            for way, write in WAYS.items():
                found = write(one)
                self.tried += 1
                if any(part in found for part in others) or not all(part in found for part in own[name]):
                    self.bad.append((name, way))


@pytest.mark.promise("exported alone")
def test_a_member_of_a_fleet_is_written_alone(tally: Tally) -> None:
    names, written_alone = [f"p{place}" for place in range(12)], WrittenInAFleet()
    federation = tiny_federation(names, engine="batched", participant={"shared": (), "optimizer": SGD})
    fit(federation, tiny_data(names), 1, written_alone)
    tally(tried=written_alone.tried, held=written_alone.tried - len(written_alone.bad))
    assert written_alone.tried == 12 * len(WAYS)
    assert not written_alone.bad


@pytest.mark.promise("exported alone")
def test_an_exported_folder_holds_one_participant(capsys: pytest.CaptureFixture[str], tally: Tally) -> None:
    config = tiny(("hospital_a", "hospital_b", "hospital_c"))
    config["trainer"] |= {
        "enable_checkpointing": True,
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"dirpath": "saved", "filename": "run"},
            }
        ],
    }
    assert hetfed(capsys, "fit", "-c", written(config)).code == 0
    state, held = read_checkpoint("saved/run.ckpt")["state_dict"], 0
    for name in config["model"]["participants"]:
        assert (
            hetfed(
                capsys,
                "export",
                "-c",
                "config.yaml",
                "--ckpt_path",
                "saved/run.ckpt",
                "--participant",
                name,
                "--output",
                name,
            ).code
            == 0
        )
        found = b"".join(file.read_bytes() for file in Path(name).iterdir())
        others = [value for key, value in state.items() if not key.startswith(f"participants.{name}.")]
        names = [other for other in config["model"]["participants"] if other != name and other.encode() in found]
        held += not names and not any(one in found for one in content(*others))
        assert load_participant(name).state_dict()
    tally(tried=3, held=held)
    assert held == 3


class Seen:
    """What a rule or an ensemble was given."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.keys: set[str] = set()

    def __call__(self, states: Any, weights: Tensor) -> dict[str, Tensor]:
        for state in states:
            self.keys |= set(state)
            self.tensors += [value.clone() for value in state.values()]
        return weighted_mean(states, weights)


class SeenAnswers(MeanProbabilities):
    """The mean of probabilities, noting what it is given."""

    def __init__(self) -> None:
        self.shapes: set[tuple[int, ...]] = set()
        self.tensors: list[Tensor] = []

    def __call__(self, teachers: Any, *arguments: Any, **options: Any) -> Any:
        for value in tensors_in((teachers, arguments, options)):
            self.tensors.append(value.clone())
        return super().__call__(teachers, *arguments, **options)


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = vars(value).values() if hasattr(value, "__dict__") else value
    if isinstance(value, Mapping):
        parts = value.values()
    if isinstance(parts, str | bytes | int | float | bool | type(None)):
        return []
    return [one for part in parts for one in tensors_in(part)]


@pytest.mark.promise("what travels")
@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_rules_and_ensembles_get_what_is_said(engine: Any, tally: Tally) -> None:
    federation, data = tiny_federation("abc", engine=engine), tiny_data("abc")
    rule, ensemble = Seen(), SeenAnswers()
    made = trainer(2, EnsembleDistillation(ensemble), BackboneAveraging(rule))
    heads = [content(*member.head.parameters()) for member in federation.members().values()]
    made.fit(federation, datamodule=data)
    heads += [content(*member.head.parameters()) for member in federation.members().values()]
    private: list[Any] = [*data.data.train.values(), *data.data.val.values(), *data.data.test.values()]
    rows = [row for one in private for row in content(*one.inputs)]
    labels = content(*(one.targets for one in private))
    travelled = b"\0" * 64 + b"".join(content(*rule.tensors, *ensemble.tensors))
    forbidden = [*(part for head in heads for part in head), *rows, *labels]
    held = sum(one not in travelled for one in forbidden)
    tally(tried=len(forbidden), held=held)
    assert rule.keys == {"backbone.0.weight", "backbone.0.bias"}
    assert rule.tensors
    assert ensemble.tensors
    assert {tuple(one.shape)[1:] for one in ensemble.tensors if one.ndim == 3} <= {(10, 3), (8, 3), (4, 3), (2, 3)}
    assert held == len(forbidden)
