"""What is said before the first step of a run whose settings are allowed, or nearly so."""

from __future__ import annotations

import logging

import pytest
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from hetfed_lightning import BackboneAveraging
from hetfed_lightning.tasks import MulticlassTask
from tests.federations import fit, tiny_data, tiny_federation


def test_a_run_in_which_nobody_exchanges_anything_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(tiny_federation(), tiny_data(evaluated=False))
        assert [one for one in caplog.messages if "3 participants train alone" in one]
        caplog.clear()
        fit(tiny_federation(), tiny_data(evaluated=False), 1, BackboneAveraging())
        fit(tiny_federation("a"), tiny_data("a", evaluated=False))
        assert not [one for one in caplog.messages if "train alone" in one]


def test_no_metric_takes_the_place_of_the_loss() -> None:
    task = MulticlassTask(metrics={"accuracy": MulticlassAccuracy(3), "loss": MeanMetric()})
    with pytest.raises(ValueError, match=r"^participant 'a': a metric of MulticlassTask is called 'loss'"):
        fit(tiny_federation("a", participant={"task": task}), tiny_data("a"))
