"""Sites of one or two rows train, are not evaluated and are named; those of none are refused."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from hetfed_lightning import BackboneAveraging, Federation, Participant
from hetfed_lightning.cli.tables import participants_table
from hetfed_lightning.data import Examples
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.named_participants import NamedDataModule
from tests.federations import equal, examples, fit, sgd, state_of, tiny_federation, trainer

SIZES = {"large": 20, "one": 1, "two": 2}


class Sites(NamedDataModule):
    """Examples of the usual kind, so many for each name."""

    def __init__(self, sizes: Mapping[str, int], **settings: Any) -> None:
        super().__init__(batch_size=8, **settings)
        self.sizes = sizes

    def load_participants(self) -> Mapping[str, Examples]:
        return {name: examples(size, seed=index) for index, (name, size) in enumerate(self.sizes.items())}


@pytest.mark.parametrize("settings", [{}, {"stratify": True}, {"shuffle": False}, {"global_sets": True}])
def test_they_train_and_are_not_evaluated(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    made, sets = tiny_federation(list(SIZES)), Sites(SIZES, **settings)
    before = {name: state_of(made[name]) for name in SIZES}
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        ran = fit(made, sets, 2, BackboneAveraging())
        ran.test(made, datamodule=sets, verbose=False)
    told = [one for one in caplog.messages if "not evaluated" in one]
    assert told == [
        "participant 'one': its 1 example trains, and none is left to validate or test on: it is not evaluated.",
        "participant 'two': its 2 examples train, and none is left to validate or test on: it is not evaluated.",
    ]
    assert not any(equal(before[name], state_of(made[name])) for name in SIZES)
    found = {key: float(value) for key, value in ran.callback_metrics.items()}
    assert not {"test_accuracy/one", "test_accuracy/two", "test_loss/one"} & found.keys()
    assert found["federation/test_accuracy_mean"] == found["test_accuracy/large"]
    assert not any(math.isnan(value) for value in found.values())
    rows = [row[0] for row in participants_table(found, SIZES, "test").rows]
    assert rows == (["large", "one", "two", "mean"] if "global_sets" in settings else ["large"])


def test_where_all_are_tiny_nobody_is_evaluated() -> None:
    made = tiny_federation(["one", "two"])
    ran = fit(made, Sites({"one": 1, "two": 2}), 2, BackboneAveraging())
    assert ran.current_epoch == 2
    assert not {key for key in ran.callback_metrics if "val" in key}


def test_a_site_without_rows_is_refused_by_name() -> None:
    class Empty(Sites):
        def load_participants(self) -> Any:
            return {"a": examples(9), "b": torch.utils.data.TensorDataset(torch.ones(0, 4), torch.ones(0))}

    with pytest.raises(DataError, match=r"participant 'b': cannot split 0 sample\(s\) into 3 parts"):
        fit(tiny_federation("ab"), Empty({}), 1)


def test_a_single_row_that_batch_norm_cannot_take_is_refused_with_the_way_out() -> None:
    def member() -> Participant:
        body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
        return Participant(body, nn.Linear(5, 3), optimizer=sgd())

    made = Federation({"large": member(), "one": member()})
    with pytest.raises(ValueError, match=r"participant 'one': 1 examples .*GroupNorm, or leave the participant out"):
        trainer(1).fit(made, datamodule=Sites({"large": 20, "one": 1}))
