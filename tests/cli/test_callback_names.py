"""Two callbacks of one class in a run: refused without names, told apart by them."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Federation
from hetfed_lightning.cli.callback_names import refuse_equal_names
from hetfed_lightning.cli.errors import ConfigError
from tests.federations import fit, state_of, tiny_data, tiny_federation


@pytest.mark.parametrize("kind", [BackboneAveraging, EnsembleDistillation])
def test_two_without_names_are_refused_by_class_and_setting(kind: type[BackboneAveraging]) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.callbacks: 2 of them are {kind.__name__}.*name: \.\.\."):
        refuse_equal_names([kind(), kind()])
    with pytest.raises(ConfigError, match=f"{kind.__name__}:slow"):
        refuse_equal_names([kind(name="slow"), kind(), kind(name="slow")])


def test_others_are_left_to_lightning() -> None:
    refuse_equal_names(ModelCheckpoint())
    refuse_equal_names([ModelCheckpoint(), ModelCheckpoint(), BackboneAveraging(), BackboneAveraging(name="slow")])


def test_two_with_names_average_and_are_counted_apart() -> None:
    run: L.Trainer = fit(tiny_federation(), tiny_data(), 2, BackboneAveraging(), BackboneAveraging(name="again"))
    once = tiny_federation()
    fit(once, tiny_data(), 2, BackboneAveraging())
    both = run.lightning_module
    assert isinstance(both, Federation)
    for name in "abc":  # A mean stays the mean where it is averaged once more, but for rounding.
        torch.testing.assert_close(state_of(both[name]), state_of(once[name]))
    assert run.callback_metrics["federation/bytes_up/averaging"] > 0
    assert run.callback_metrics["federation/bytes_up/averaging:again"] > 0
