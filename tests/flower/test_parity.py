"""The same numbers between institutions as in one process: states to the bit, figures as they are logged."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, PrivateAveraging, Transfer
from hetfed_lightning.aggregation import coordinate_median
from hetfed_lightning.distillation import ClassPriorWeighted, ValidationWeighted
from tests.federations import equal, sgd
from tests.flower.federating import Callbacks, Deployed

pytestmark = pytest.mark.promise("parity")


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.1)


def halved(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


def on_plateau(optimizer: Any) -> Any:
    from lightning.pytorch.cli import ReduceLROnPlateau

    return ReduceLROnPlateau(optimizer, monitor="val_loss/a", patience=0, factor=0.5)


SETTINGS: dict[str, tuple[Callbacks, dict[str, Any]]] = {
    "averaging": (lambda: [BackboneAveraging()], {}),
    "averaging, proximal": (lambda: [BackboneAveraging(proximal=0.5)], {}),
    "averaging, median": (lambda: [BackboneAveraging(coordinate_median, weighting="uniform")], {}),
    "averaging, everything else": (
        lambda: [
            BackboneAveraging(
                every_n_rounds=2,
                server_optimizer=adam,
                optimizer_state="reset",
                max_update_norm=0.5,
                weighting={"a": 1.0, "b": 2.0, "c": 3.0},
            )
        ],
        {"participants": {"optimizer": sgd(momentum=0.9)}},
    ),
    "averaging, no common start": (lambda: [BackboneAveraging(synchronise_start=False)], {}),
    "mixed": (lambda: [EnsembleDistillation(ClassPriorWeighted(), mode="mixed"), BackboneAveraging()], {}),
    "mixed, proximal, every second round": (
        lambda: [EnsembleDistillation(mode="mixed"), BackboneAveraging(proximal=0.5, every_n_rounds=2)],
        {"rounds": 4},
    ),
    "mixed alone": (lambda: [EnsembleDistillation(mode="mixed", start_round=0)], {}),
    "phase": (lambda: [EnsembleDistillation(ValidationWeighted()), BackboneAveraging()], {}),
    "phase alone, own optimizer": (lambda: [EnsembleDistillation(optimizer=sgd(0.05), every_n_rounds=2)], {}),
    "sampled": (lambda: [BackboneAveraging()], {"settings": {"participation": 0.5}, "rounds": 5}),
    "sampled, mixed": (
        lambda: [EnsembleDistillation(mode="mixed"), BackboneAveraging()],
        {"settings": {"participation": 0.5}, "rounds": 4},
    ),
    "momentum, schedule, epochs": (
        lambda: [BackboneAveraging()],
        {"participants": {"optimizer": sgd(momentum=0.9), "lr_scheduler": halved, "local_epochs": 2}},
    ),
    "schedule by validation": (lambda: [BackboneAveraging()], {"own": {"a": {"lr_scheduler_factory": on_plateau}}}),
    "accumulation": (lambda: [BackboneAveraging()], {"participants": {"accumulate_grad_batches": 3}}),
    "joins later": (
        lambda: [EnsembleDistillation(mode="mixed"), BackboneAveraging()],
        {"own": {"c": {"joins_at": 1}}, "settings": {"joins_at": {"c": 1}}},
    ),
    "joins later, schedule": (
        lambda: [BackboneAveraging()],
        {
            "participants": {"lr_scheduler": halved},
            "own": {"c": {"joins_at": 1}},
            "settings": {"joins_at": {"c": 1}},
        },
    ),
    "joins with lessons": (
        lambda: [EnsembleDistillation(), BackboneAveraging()],
        {
            "own": {"c": {"joins_at": 2, "transfer": Transfer(distillation_epochs=2)}},
            "settings": {"joins_at": {"c": 2}},
        },
    ),
    "private": (
        lambda: [PrivateAveraging(noise_multiplier=1.0, max_update_norm=0.1, delta=0.01, noise_seed=3)],
        {},
    ),
    "private, a budget for two rounds": (
        lambda: [
            PrivateAveraging(noise_multiplier=1.0, max_update_norm=0.1, delta=0.01, noise_seed=3, max_epsilon=4.0)
        ],
        {},
    ),
    "leaves": (lambda: [BackboneAveraging()], {"own": {"b": {"leaves_at": 2}}}),
}


SLOW = {"averaging, median", "mixed alone", "phase alone, own optimizer", "sampled, mixed", "accumulation", "private"}
"""Left to `-m slow`: others have their parts."""


@pytest.mark.parametrize(
    "named", [pytest.param(one, marks=pytest.mark.slow) if one in SLOW else one for one in SETTINGS]
)
def test_states_and_figures_are_those_of_one_fit(named: str, tmp_path: Path) -> None:
    callbacks, settings = SETTINGS[named]
    deployed = Deployed("abc", callbacks, tmp_path, **settings)
    states, metrics = deployed.in_one_fit()
    rounds = 2 if "budget" in named else deployed.rounds
    leader = deployed.lead()
    found = deployed.states(leader.run_id)
    here = [name for name in "abc" if deployed.everyone()[name].is_member(deployed.rounds - 1)]
    assert all(equal(found[name], states[name]) for name in here)
    assert deployed.notes.rounds == list(range(rounds))
    assert not any(deployed.notes.left_out)
    last = deployed.notes.metrics[-1] | deployed.notes.figures[-1]
    known = {key: value for key, value in metrics.items() if key in last and "bytes" not in key}
    assert {key: last[key] for key in known} == pytest.approx(known, abs=1e-6)
    # What is missing is the federation's summary, which the journal makes.
    active = leader.roll.joined(deployed.rounds - 1) if "participation" not in deployed.settings else []
    own = {key for key in metrics if key.rpartition("/")[2] in active}
    assert own <= last.keys()
