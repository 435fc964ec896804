"""Modes: a part that its owner keeps in ``eval()`` stays so, whatever the federation does with the participant."""

from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from hetfed_lightning import EnsembleDistillation, FederatedCallback, Federation, Inheritance, Participant, Transfer
from hetfed_lightning.callbacks.confusions import examine
from hetfed_lightning.modes import evaluating
from tests.federations import NAMES, fit, sgd, tiny_data, tiny_participant

pytestmark = pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")


def frozen(seed: int = 0, **settings: Any) -> Participant:
    """A participant whose BatchNorm keeps the statistics that it came with: in ``eval()``, all else in training."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.ReLU())
    backbone[1].running_mean = torch.full((5,), 7.0)
    backbone[1].eval()
    return Participant(backbone, nn.Linear(5, 3), **({"optimizer": sgd()} | settings))


def modes(module: nn.Module) -> dict[str, bool]:
    return {name: one.training for name, one in module.named_modules()}


class Modes(FederatedCallback):
    """Notes everyone's modes before each step."""

    def __init__(self) -> None:
        self.found: list[dict[str, bool]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.found.append(modes(pl_module))


def test_modes_return_after_an_error_too() -> None:
    participant = frozen()
    before = modes(participant)
    try:
        with evaluating(participant.backbone):
            assert not any(modes(participant.backbone).values())
            assert participant.head.training
            1 / 0  # noqa: B018 - for its error
    except ZeroDivisionError:
        pass
    assert modes(participant) == before


@pytest.mark.parametrize("compiled", [False, pytest.param({"backend": "aot_eager"}, marks=pytest.mark.slow)])
def test_a_batch_norm_in_evaluation_mode_stays_in_it(compiled: Any) -> None:
    federation = Federation({name: frozen(seed, compile=compiled) for seed, name in enumerate(NAMES)})
    watch, before = Modes(), modes(federation)
    made = fit(
        federation, tiny_data(), 2, watch, EnsembleDistillation(batch_size=5), val_check_interval=2,
        num_sanity_val_steps=1,
    )  # fmt: skip
    assert watch.found == [before] * 2 * 5
    examine(made, federation)
    for method in ("validate", "test", "predict"):
        getattr(made, method)(federation, datamodule=tiny_data())
    for participant in federation.members().values():
        participant.predict(torch.randn(2, 4))
        norm: Any = participant.backbone[1]  # type: ignore[index]
        assert torch.equal(norm.running_mean, torch.full((5,), 7.0))
        assert norm.num_batches_tracked == 0
    assert modes(federation) == before


def test_a_lesson_is_learned_and_taught_in_the_modes_that_were_set() -> None:
    source = Federation({name: frozen(seed) for seed, name in enumerate(NAMES)})
    fit(source, tiny_data())
    newcomer = frozen(9, shared=(), transfer=Transfer(distillation_epochs=1))
    federation, before = Federation({"new": newcomer}), modes(source)
    fit(federation, tiny_data(["new"]), 1, Inheritance(source))
    assert modes(source) == before
    assert modes(newcomer) == modes(frozen())
    assert torch.equal(newcomer.backbone[1].running_mean, torch.full((5,), 7.0))  # type: ignore[index]


def test_a_batch_of_one_passes_a_batch_norm_in_evaluation_mode() -> None:
    data = tiny_data("a", count=5, evaluated=False)  # Batches of 4 and of 1.
    with pytest.raises(ValueError, match=r"'a'.*batch of one, which its BatchNorm cannot normalise"):
        fit(Federation({"a": frozen().train()}), data)
    fit(Federation({"a": frozen()}), data)


@pytest.mark.parametrize(
    "hook", ["on_validation_model_eval", "on_validation_model_train", "on_test_model_eval", "on_predict_model_eval"]
)
def test_hooks_that_would_set_modes_are_refused_by_name(hook: str) -> None:
    participant = tiny_participant()
    setattr(participant, hook, lambda: None)
    with pytest.raises(ValueError, match=f"'a'.*{hook} would never be called.*on_train_epoch_start"):
        fit(Federation({"a": participant}), tiny_data("a"))


def test_a_mode_that_a_participant_sets_each_epoch_lasts_for_the_round() -> None:
    class Freezes(Participant):
        def on_train_epoch_start(self) -> None:
            self.backbone.get_submodule("1").eval()

    model = frozen().train()
    federation = Federation({"a": Freezes(model.backbone, model.head, optimizer=sgd())})
    fit(federation, tiny_data("a"), 2, EnsembleDistillation(batch_size=5), val_check_interval=1)
    assert federation["a"].backbone[1].num_batches_tracked == 0  # type: ignore[index]
