"""Figures of two methods of one run: each has a tag of its own, or is refused by name."""

from typing import Any

import pytest
import torch

from hetfed_lightning import BackboneAveraging, Combined, EnsembleDistillation, Method
from hetfed_lightning.methods.messages import MessageError
from tests.federations import fit, tiny_data, tiny_federation


class Logging(Method):
    """Sends nothing of use, and logs a number under a key."""

    def __init__(self, key: str, number: float, name: str | None = None) -> None:
        self.key, self.number, self.name = key, number, name

    def send(self, *args: Any) -> Any:
        return {"x": torch.ones(1)}

    def combine(self, *args: Any) -> Any:
        return Combined(None, {self.key: self.number})


class Counting(Logging):
    """A method."""


class Other(Logging):
    """Another method."""


def test_two_methods_with_a_figure_of_one_name_are_refused_at_the_first() -> None:
    with pytest.raises(
        MessageError,
        match=r"Round 0: Other.combine: federation/share is a figure of Counting \(Counting\), and Other has one",
    ):
        fit(tiny_federation(), tiny_data(evaluated=False), 1, Counting("share", 1), Other("share", 2))


def test_a_figure_of_another_round_is_refused_as_well() -> None:
    class Later(Logging):
        def is_due(self, round_index: int) -> bool:
            return round_index == 1

    class First(Logging):
        def is_due(self, round_index: int) -> bool:
            return round_index == 0

    with pytest.raises(MessageError, match=r"Round 1: Later.combine: federation/share is a figure of First"):
        fit(tiny_federation(), tiny_data(evaluated=False), 2, First("share", 1), Later("share", 2))


def test_a_method_alone_keeps_its_tags_whatever_its_name() -> None:
    for name in (None, "mine"):
        trainer = fit(tiny_federation(), tiny_data(evaluated=False), 2, Counting("share", 1, name), Other("other", 2))
        assert trainer.logged_metrics["federation/share"] == 1
        assert trainer.logged_metrics["federation/other"] == 2


def test_two_of_a_kind_are_told_apart_by_name() -> None:
    trainer = fit(tiny_federation(), tiny_data(evaluated=False), 1, Counting("share", 1), Counting("share", 2, "b"))
    found = {key: float(value) for key, value in trainer.logged_metrics.items() if "share" in key}
    assert found == {"federation/share": 1, "federation/share/b": 2}


def test_two_of_the_packages_are_told_apart_by_name() -> None:
    callbacks = [
        BackboneAveraging(name="often"),
        BackboneAveraging(every_n_rounds=2, name="seldom"),
        EnsembleDistillation(),
        EnsembleDistillation(name="second"),
    ]
    logged = fit(tiny_federation(), tiny_data(), 2, *callbacks).logged_metrics
    expected = {"divergence/often", "divergence/seldom", "teacher_agreement", "teacher_agreement/second"}
    assert {key.removeprefix("federation/") for key in logged if "divergence" in key or "agreement" in key} == expected


class Further(Counting):
    """One that extends another."""


def test_one_that_extends_another_is_told_apart_by_its_name_and_told_so_without() -> None:
    logged = fit(
        tiny_federation(), tiny_data(evaluated=False), 1, Counting("share", 1), Further("share", 2, "more")
    ).logged_metrics
    assert (float(logged["federation/share"]), float(logged["federation/share/more"])) == (1, 2)
    with pytest.raises(MessageError, match=r"Further has one of that name too. .* or give it a name"):
        fit(tiny_federation(), tiny_data(evaluated=False), 1, Counting("share", 1), Further("share", 2))
