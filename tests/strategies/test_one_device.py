"""On one device the strategy is none at all; what several ranks cannot do is refused by name."""

import os
from typing import Any, cast

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, OnExceptionCheckpoint
from torch import nn

from hetfed_lightning import BackboneAveraging, FederatedStrategy, Federation, Participant
from hetfed_lightning.strategies.checks import check_callbacks, check_same_data, check_shares
from hetfed_lightning.strategies.collectives import Collectives
from hetfed_lightning.strategies.ranks import Ranks
from tests.federations import fit, sgd, tiny_data, tiny_federation, trainer
from tests.strategies.scenarios import SCENARIOS, differences


@pytest.mark.parametrize("scenario", ["averaging_and_phase", "mixed_student_participation"])
def test_one_device_is_as_no_strategy(scenario: str, tmp_path: Any) -> None:
    before = dict(os.environ)
    found = SCENARIOS[scenario](tmp_path, lambda: {"strategy": "federated", "devices": 1})
    assert not differences(SCENARIOS[scenario](tmp_path, dict), found)
    assert not torch.distributed.is_initialized()
    assert dict(os.environ) == before


def test_one_process_hosts_everybody() -> None:
    federation = tiny_federation()
    fit(federation, tiny_data(), 1, strategy=FederatedStrategy(layout="data"), devices=1)
    assert type(federation.ranks) is Ranks
    assert federation.trained_here(0) == federation.measured_here() == list("abc")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layout": "ring"}, "layout: expected 'participant' or 'data', got 'ring'"),
        ({"groups": 0}, "groups: expected at least 1, got 0"),
        ({"stuck_after": 0.0}, "stuck_after: expected seconds above 0"),
        ({"timeout": -1.0}, "timeout: expected seconds above 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FederatedStrategy(**settings)


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (EMAWeightAveraging(), r"EMAWeightAveraging.*Use Trainer\(devices=1\)"),
        (OnExceptionCheckpoint("x"), "OnExceptionCheckpoint would save on an exception"),
        (ModelCheckpoint(save_on_exception=True), "ModelCheckpoint would save on an exception"),
    ],
)
def test_callbacks_that_look_between_exchanges(callback: Any, words: str) -> None:
    with pytest.raises(MisconfigurationException, match=words):
        check_callbacks(trainer(1, callback, enable_checkpointing=True))


def test_a_share_of_one_example_under_batch_normalisation() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    federation = Federation({"a": Participant(network, nn.Linear(5, 3), optimizer=sgd())})
    fit(federation, tiny_data(("a",), count=12, batch_size=6))
    check_shares(federation, 3)  # 2, 2, 2 of every batch.
    with pytest.raises(ValueError, match="participant 'a': a batch of 6 examples on 4 ranks leaves one"):
        check_shares(federation, 4)


class ByHand(Participant):
    """Steps its optimizers by itself."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 5), nn.Linear(5, 3), optimizer=sgd())
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """No step at all."""


def test_gradients_that_nobody_can_add_up() -> None:
    federation = Federation({"a": ByHand()})
    fit(federation, tiny_data(("a",)))
    with pytest.raises(ValueError, match="participant 'a' steps its optimizers by itself"):
        check_shares(federation, 2)


def test_data_that_differs_from_rank_to_rank() -> None:
    federation = tiny_federation()
    fit(federation, tiny_data())

    class Others:
        def share(self, sizes: dict[str, tuple[int, int]]) -> list[dict[str, tuple[int, int]]]:
            return [sizes, sizes | {"b": (15, 4)}]

    with pytest.raises(ValueError, match="b: rank 0 has 16 training examples in 4 batches, rank 1 has 15 in 4"):
        check_same_data(federation, cast("Collectives", Others()))


def test_a_copy_of_a_federation_forgets_its_ranks() -> None:
    federation = tiny_federation()
    fit(federation, tiny_data(), 1, BackboneAveraging())
    federation.ranks = cast("Ranks", object())
    assert type(federation.__getstate__()["ranks"]) is Ranks
