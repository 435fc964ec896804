"""The same numbers between institutions as in one process: states to the bit, figures as they are logged."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Participant, PrivateAveraging, Transfer
from hetfed_lightning.aggregation import coordinate_median
from hetfed_lightning.distillation import (
    ClassPriorWeighted,
    DensityRatioPosterior,
    MeanProbabilities,
    ValidationWeighted,
)
from hetfed_lightning.layers import GaussianNoise
from tests.drawn import ROUNDS, drawn
from tests.federations import equal, sgd
from tests.flower.federating import Callbacks, Deployed
from tests.networks import Adapted

pytestmark = pytest.mark.promise("parity")


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.1)


def halved(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


def on_plateau(optimizer: Any) -> Any:
    from lightning.pytorch.cli import ReduceLROnPlateau

    return ReduceLROnPlateau(optimizer, monitor="val_loss/a", patience=0, factor=0.5)


def steps_in(*rounds: int) -> Callable[[Participant], None]:
    """Gives a training_step that makes something of some rounds and nothing of the others."""

    def change(participant: Participant) -> None:
        def step(batch: Any, batch_idx: int) -> Any:
            steps = participant.current_epoch in rounds
            return Participant.training_step(participant, batch, batch_idx) if steps else None

        participant.training_step = step  # type: ignore[method-assign]

    return change


def not_finite_in(round_index: int) -> Callable[[Participant], None]:
    """Gives a training_step whose loss is NaN in a round."""

    def change(participant: Participant) -> None:
        def step(batch: Any, batch_idx: int) -> Any:
            loss = Participant.training_step(participant, batch, batch_idx)
            return loss * float("nan") if participant.current_epoch == round_index else loss

        participant.training_step = step  # type: ignore[method-assign]

    return change


def one_cycle(participant: Participant) -> None:
    """Plans a learning rate over all of its own optimizer steps."""
    participant.lr_scheduler_interval = "step"
    participant.lr_scheduler_factory = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1 - 0.9 * step / participant.trainer.estimated_stepping_batches
    )


def awkward(seed: int, *, base: int) -> tuple[nn.Module, nn.Module]:
    """Adapters over frozen weights, an orthogonal layer, a spectral norm, a tied head."""
    frozen = torch.randn(5, 4, generator=torch.Generator().manual_seed(base))
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        normed = parametrizations.spectral_norm(nn.Linear(5, 3, bias=False))
        backbone = nn.Sequential(Adapted(frozen), parametrizations.orthogonal(nn.Linear(5, 5)), nn.Tanh(), normed)
        head = nn.Linear(3, 3)
        first = nn.Linear(3, 3, bias=False)
    first.weight = head.weight
    backbone.append(first)
    return backbone, head


class Above(MeanProbabilities):
    """Asks teachers for more than their outputs."""

    def message(self, outputs: Tensor, features: Tensor, data: Any) -> Tensor:
        shift: Tensor = data.features.mean()
        return outputs + features.mean(1, keepdim=True) * shift


CHANGED = [GaussianNoise(0.5), nn.Dropout(0.2)]
"""Changes of public examples, by which a run ends elsewhere than without."""

SETTINGS: dict[str, tuple[Callbacks, dict[str, Any]]] = {
    "averaging": (lambda: [BackboneAveraging()], {}),
    "an ensemble with a message of its own": (lambda: [EnsembleDistillation(Above()), BackboneAveraging()], {}),
    "averaging, own prior": (lambda: [BackboneAveraging()], {"participants": {"own_prior": 0.5}}),
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
    "two ensembles, one of messages of its own": (
        lambda: [
            EnsembleDistillation(DensityRatioPosterior(), mode="mixed", name="ratios"),
            EnsembleDistillation(name="outputs"),
            BackboneAveraging(),
        ],
        {},
    ),
    "mixed alone": (lambda: [EnsembleDistillation(mode="mixed", start_round=0)], {}),
    "phase": (lambda: [EnsembleDistillation(ValidationWeighted()), BackboneAveraging()], {}),
    "mixed, changed public examples": (
        lambda: [EnsembleDistillation(mode="mixed", batch_size=4, public_transform=CHANGED), BackboneAveraging()],
        {},
    ),
    "phase and lessons, changed public examples": (
        lambda: [EnsembleDistillation(epochs=2, batch_size=4, public_transform=CHANGED), BackboneAveraging()],
        {
            "own": {"c": {"joins_at": 1, "transfer": Transfer(distillation_epochs=2)}},
            "settings": {"joins_at": {"c": 1}},
        },
    ),
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
    "schedules over all steps": (
        lambda: [EnsembleDistillation(), BackboneAveraging()],
        {
            "own": {
                "a": {"accumulate_grad_batches": 2, "leaves_at": 2},
                "c": {"joins_at": 1, "transfer": Transfer(distillation_epochs=2)},
            },
            "changes": dict.fromkeys("abc", one_cycle),
            "settings": {"joins_at": {"c": 1}},
        },
    ),
    "nobody but b takes a step in every round": (
        lambda: [EnsembleDistillation(mode="mixed"), BackboneAveraging(optimizer_state="reset")],
        {
            "changes": {"a": steps_in(1), "c": steps_in()},
            "settings": {"min_participants": 3},
        },
    ),
    "steps in some rounds alone, phase": (
        lambda: [EnsembleDistillation(), BackboneAveraging()],
        {"changes": {"a": steps_in(1), "c": steps_in()}, "settings": {"min_participants": 3}},
    ),
    "without a step, phase with an optimizer of its own": (
        lambda: [EnsembleDistillation(optimizer=sgd(0.05)), BackboneAveraging()],
        {"changes": {"a": steps_in(1)}},
    ),
    "nobody takes a step": (
        lambda: [BackboneAveraging()],
        {"changes": {name: steps_in(1) for name in "abc"}, "rounds": 2},
    ),
    "not finite in a round, mixed": (
        lambda: [EnsembleDistillation(mode="mixed"), BackboneAveraging()],
        {"changes": {"a": not_finite_in(1)}, "left_out": {1: ["a"]}},
    ),
    "not finite in a round, phase": (
        lambda: [EnsembleDistillation(), BackboneAveraging()],
        {"changes": {"a": not_finite_in(1)}, "left_out": {1: ["a"]}},
    ),
    "mixed, joins with lessons": (
        lambda: [EnsembleDistillation(mode="mixed"), BackboneAveraging()],
        {
            "own": {"c": {"joins_at": 2, "transfer": Transfer(distillation_epochs=2)}},
            "settings": {"joins_at": {"c": 2}},
        },
    ),
    "awkward networks": (
        lambda: [BackboneAveraging(server_optimizer=adam)],
        {
            "networks": {
                "a": partial(awkward, 1, base=5),
                "b": partial(awkward, 2, base=5),
                "c": partial(awkward, 3, base=6),
            },
            "participants": {"shared": ("backbone.1", "head.weight", "*.down.weight", "*.up.weight")},
        },
    ),
    "leaves": (lambda: [BackboneAveraging()], {"own": {"b": {"leaves_at": 2}}}),
}


def same_as_in_one_fit(deployed: Deployed) -> None:
    """States to the bit, and the federation's figures of every round."""
    states, metrics = deployed.rounds_in_one_fit()
    leader = deployed.lead()
    found = deployed.states(leader.run_id)
    for name, state in found.items():
        assert equal(state, states[name]), name
    for wanted, own, together in zip(metrics, deployed.notes.metrics, deployed.notes.figures, strict=True):
        known = {key: value for key, value in (own | together).items() if key in wanted}
        assert known.keys() >= BYTES
        assert known == pytest.approx({key: wanted[key] for key in known}, abs=1e-6, nan_ok=True)


def drawn_and_deployed(seed: int, folder: Path) -> Deployed:
    """A federation that is drawn at random."""
    one = drawn(seed)
    joins = {name: own["joins_at"] for name, own in one.own.items() if "joins_at" in own}
    return Deployed(
        "abc",
        one.callbacks,
        folder,
        rounds=ROUNDS,
        changes={name: partial(one.change, name) for name in "abc"},
        settings={"participation": one.participation, "joins_at": joins},
    )


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 60))])
def test_any_small_federation_gives_the_same_numbers(seed: int, tmp_path: Path) -> None:
    same_as_in_one_fit(drawn_and_deployed(seed, tmp_path))


BYTES = {"federation/bytes_up", "federation/bytes_down"}

SLOW = {
    "averaging",
    "averaging, proximal",
    "mixed",
    "phase",
    "joins later",
    "without a step, phase with an optimizer of its own",
    "nobody takes a step",
    "not finite in a round, mixed",
    "averaging, median",
    "mixed alone",
    "phase alone, own optimizer",
    "sampled, mixed",
    "accumulation",
    "private",
    "steps in some rounds alone, phase",
    "mixed, proximal, every second round",
    "nobody but b takes a step in every round",
    "phase and lessons, changed public examples",
    "averaging, no common start",
    "sampled",
    "joins later, schedule",
    "averaging, own prior",
    "schedule by validation",
    "momentum, schedule, epochs",
    "mixed, joins with lessons",
}
"""Left to `-m slow`: others have their parts."""


@pytest.mark.parametrize(
    "named", [pytest.param(one, marks=pytest.mark.slow) if one in SLOW else one for one in SETTINGS]
)
def test_states_and_figures_are_those_of_one_fit(named: str, tmp_path: Path) -> None:
    callbacks, settings = SETTINGS[named]
    left_out = settings.get("left_out", {})
    deployed = Deployed("abc", callbacks, tmp_path, **{key: one for key, one in settings.items() if key != "left_out"})
    states, metrics = deployed.rounds_in_one_fit()
    rounds = 2 if "budget" in named else deployed.rounds
    leader = deployed.lead()
    found = deployed.states(leader.run_id)
    assert all(equal(found[name], states[name]) for name in "abc")
    assert deployed.notes.rounds == list(range(rounds))
    assert [list(names) for names in deployed.notes.left_out] == [left_out.get(one, []) for one in range(rounds)]
    for wanted, own, together in zip(metrics, deployed.notes.metrics, deployed.notes.figures, strict=True):
        known = {key: value for key, value in (own | together).items() if key in wanted}
        assert {"federation/participants", "federation/quarantined", *BYTES} <= known.keys()
        assert known == pytest.approx({key: wanted[key] for key in known}, abs=1e-6, nan_ok=True)
    # What is missing is the federation's summary, which the journal makes.
    # What was logged in an earlier round alone stays among the Trainer's, of who is not sampled, or takes no step.
    varies = "participation" in deployed.settings or deployed.changes
    active = [] if varies else leader.sites.joined(deployed.rounds - 1)
    last = deployed.notes.metrics[-1].keys() | deployed.notes.figures[-1].keys()
    assert {key for key in metrics[-1] if key.rpartition("/")[2] in active} <= last
