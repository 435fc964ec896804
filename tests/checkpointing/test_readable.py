"""A state that could not be read back is refused as it is saved, with the key and its owner."""

import datetime as dt
import enum
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetfed_lightning import BackboneAveraging, Participant
from hetfed_lightning.checkpointing.readable import UnreadableStateError, check_readable
from hetfed_lightning.checkpointing.reading import read_checkpoint
from tests.federations import fit, sgd, tiny_data, tiny_federation, trainer


class Colour(enum.Enum):
    RED = 1


class Own:
    """A class that no checkpoint may bring along."""


UNREADABLE: list[tuple[Any, str]] = [
    (np.float64(0.5), r"Save value\.item\(\) instead"),
    (np.arange(3), r"Save torch\.from_numpy\(value\) or value\.tolist\(\) instead"),
    (dt.datetime(2026, 1, 2), r"Save value\.isoformat\(\) instead"),  # noqa: DTZ001 - any
    (dt.date(2026, 1, 2), r"Save value\.isoformat\(\) instead"),
    (Path("x"), r"Save str\(value\) instead"),
    (Colour.RED, r"Save value\.value instead"),
    (Own(), "numbers, text, lists, dictionaries and tensors can. Save those instead"),
    (lambda: None, "Save those instead"),
    (1 << 2048, "Save those instead"),
]


class Keeper(L.Callback):
    """Keeps what it is given."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"kept": {"inside": [1, self.value]}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value = state_dict["kept"]["inside"][1]


@pytest.mark.parametrize(("value", "words"), UNREADABLE, ids=[type(value).__name__ for value, _ in UNREADABLE])
def test_a_callbacks_state_is_refused_with_its_key(value: Any, words: str, tmp_path: Path) -> None:
    made, sets = tiny_federation("ab"), tiny_data("ab")
    ran = fit(made, sets, 1, BackboneAveraging(), Keeper(value))
    with pytest.raises(
        UnreadableStateError, match=rf"The state_dict of callback Keeper .*under kept\.inside\.1.*{words}"
    ):
        ran.save_checkpoint(tmp_path / "x.ckpt")
    assert list(tmp_path.iterdir()) == []


class Remembers(Participant):
    """Adds something of its own to a checkpoint."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = {"at": dt.date(2026, 1, 2)}


def test_participants_optimizers_and_modules_are_named(tmp_path: Path) -> None:
    def saved(**changed: Any) -> None:
        made = tiny_federation("ab", participant={"optimizer": changed.pop("optimizer", sgd())})
        for key, value in changed.items():
            made.participants["b"] = value if key == "b" else made["b"]
            value.attach("b", made)
        fit(made, tiny_data("ab"), 1).save_checkpoint(tmp_path / "x.ckpt")

    own = Remembers(nn.Linear(4, 5), nn.Linear(5, 3), optimizer=sgd())
    with pytest.raises(UnreadableStateError, match=r"on_save_checkpoint of participant 'b' would .* under best\.at"):
        saved(b=own)
    with pytest.raises(UnreadableStateError, match=r"The optimizer of participant 'a' .*under param_groups\.0\.lr"):
        saved(optimizer=lambda p: torch.optim.SGD(p, lr=np.float64(0.1)))
    state = {"participants.b.head._extra_state": np.float32(1)}
    with pytest.raises(UnreadableStateError, match=r"state_dict of participant 'b' .*participants\.b\.head\._extra"):
        check_readable({"state_dict": state, "pytorch-lightning_version": "2"})


def test_a_run_ends_at_the_first_checkpoint_and_not_at_its_resumption(tmp_path: Path) -> None:
    keeping = L.pytorch.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    ran = trainer(3, keeping, Keeper(np.int64(3)), enable_checkpointing=True)
    with pytest.raises(UnreadableStateError, match="callback Keeper"):
        ran.fit(tiny_federation("ab"), datamodule=tiny_data("ab"))
    assert ran.current_epoch == 0
    assert list(tmp_path.iterdir()) == []


READABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(min_size=1) | st.just(torch.ones(2))
    | st.just(torch.float64) | st.just(torch.Size([1, 2])) | st.just({1, 2}) | st.just(OrderedDict(a=1)),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text() | st.integers(), inside, max_size=3)
    | st.tuples(inside, inside),
    max_leaves=8,
)  # fmt: skip


@given(READABLE)
def test_what_can_be_read_is_let_through(value: Any) -> None:
    check_readable({"state_dict": {}, "pytorch-lightning_version": "2", "callbacks": {"X": value}})


@given(READABLE, st.sampled_from(UNREADABLE))
def test_wherever_it_stands_it_is_found(value: Any, other: tuple[Any, str]) -> None:
    for inside in ([value, other[0]], {"a": value, "b": [other[0]]}, (value, {"c": other[0]})):
        with pytest.raises(UnreadableStateError, match="The state_dict of callback X would save"):
            check_readable({"state_dict": {}, "pytorch-lightning_version": "2", "callbacks": {"X": inside}})


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    state = {"rate": 0.5, "when": "2026-01-02", "seen": [1, 2], "best": math.inf, "mean": torch.ones(2)}
    fit(tiny_federation("ab"), tiny_data("ab"), 1, Keeper(state)).save_checkpoint(tmp_path / "x.ckpt")
    found = read_checkpoint(tmp_path / "x.ckpt")["callbacks"]["Keeper"]["kept"]["inside"][1]
    assert torch.equal(found.pop("mean"), state.pop("mean"))  # type: ignore[arg-type]  # of several kinds
    assert found == state
