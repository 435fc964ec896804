"""Participants, federations and callbacks that cannot work are refused before the first step, with what to change."""

import logging
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Federation, LinearSchedule, Participant
from hetfed_lightning.aggregation import MultiKrum
from tests.federations import equal, examples, fit, state_of, tiny_data, tiny_federation, tiny_participant

pytestmark = pytest.mark.promise("bad settings")

NAN, INF = float("nan"), float("inf")


def refused(federation: Federation, words: str, *callbacks: L.Callback, data: Any = None, rounds: int = 2) -> None:
    """Fit raises a ValueError with ``words`` and has changed nothing."""
    before = state_of(federation)
    with pytest.raises(ValueError, match=words):
        fit(federation, data or tiny_data(tuple(federation.members())), rounds, *callbacks)
    assert equal(before, state_of(federation))


# Settings of a participant


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"joins_at": -1}, "joins_at: expected an integer of at least 0, got -1"),
        ({"joins_at": 0.5}, r"joins_at: expected an integer of at least 0, got 0\.5"),
        ({"local_epochs": 0}, "local_epochs: expected an integer of at least 1, got 0"),
        ({"local_epochs": True}, "local_epochs: expected an integer of at least 1, got True"),
        ({"step_budget": 0}, "step_budget: expected an integer of at least 1, got 0"),
        ({"min_steps": 0}, "min_steps: expected an integer of at least 1, got 0"),
        ({"min_steps": 5, "step_budget": 4}, "min_steps: expected at most step_budget=4, got 5"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches: expected an integer of at least 1, got 0"),
        ({"gradient_clip_val": 0.0}, r"gradient_clip_val: expected a finite norm above 0, got 0\.0"),
        ({"gradient_clip_val": INF}, "gradient_clip_val: expected a finite norm above 0, got inf"),
        ({"gradient_clip_val": NAN}, "gradient_clip_val: expected a finite norm above 0, got nan"),
        ({"lr_scheduler_interval": "batch"}, "lr_scheduler_interval: expected 'epoch' or 'step', got 'batch'"),
        ({"task": "classification"}, "task: expected one of multiclass, binary, multilabel, regression or a Task"),
    ],
)
def test_settings_of_a_participant(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Participant(nn.Linear(2, 2), **settings)


def test_a_pattern_that_matches_nothing_names_the_participant_and_what_there_is() -> None:
    members = {"a": tiny_participant(), "b": tiny_participant(shared=("bakbone",))}
    refused(
        Federation(members),
        r"participant 'b': shared='bakbone' matches no key of its state \(which has backbone, head\)",
        BackboneAveraging(),
    )  # fmt: skip


def test_several_optimizers_need_manual_stepping() -> None:
    class Two(Participant):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.backbone, self.head)]

    made = tiny_participant()
    refused(Federation({"a": Two(made.backbone, made.head)}), "participant 'a': .*2 optimizers; set self.automatic_opt")


def test_what_is_no_optimizer_is_refused_by_name() -> None:
    refused(
        tiny_federation("ab", participant={"optimizer": lambda parameters: "Adam"}),
        "participant 'a': configure_optimizers returned str; expected an optimizer",
    )


def test_nothing_to_train() -> None:
    members = {"a": tiny_participant(), "frozen": tiny_participant().requires_grad_(False)}
    refused(Federation(members), "participant 'frozen': it has no parameter that requires a gradient")


def test_an_optimizer_that_fails_names_its_participant() -> None:
    federation = tiny_federation(
        "ab", participant={"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=-1.0)}
    )
    with pytest.raises(ValueError, match="Invalid learning rate") as caught:
        fit(federation, tiny_data("ab"), 1)
    assert "in configure_optimizers of participant 'a'" in caught.value.__notes__


# The federation


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: Federation({}), "participants: expected at least one, got none"),
        (lambda p: Federation({"": p}), "expected a name of letters, digits, '_' and '-', got ''"),
        (lambda p: Federation({"a b": p}), "expected a name of letters.*got 'a b'"),
        (lambda p: Federation({"a.b": p}), r"expected a name of letters.*got 'a\.b'"),
        (lambda p: Federation({"a/b": p}), "expected a name of letters.*got 'a/b'"),
        (lambda p: Federation({"-a": p}), "expected a name of letters.*got '-a'"),
        (lambda p: Federation({"global": p}), "'global' is reserved, since everyone's data is called so"),
        (lambda p: Federation({"student": p}), "'student' is reserved"),
        (lambda p: Federation({"keys": p}), "'keys' is reserved"),
        (lambda p: Federation({"a": p}, participation=0), r"participation: expected a fraction in \(0, 1\], got 0"),
        (lambda p: Federation({"a": p}, participation=1.5), r"participation: .*got 1\.5"),
        (lambda p: Federation({"a": p}, participation=NAN), "participation: .*got nan"),
    ],
)
def test_settings_of_a_federation(make: Callable[[Participant], Federation], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(tiny_participant())


def test_something_else_than_a_participant() -> None:
    with pytest.raises(TypeError, match=r"participants\['a'\]: expected a Participant, got Linear"):
        Federation({"a": nn.Linear(2, 2)})  # type: ignore[dict-item]


def test_one_object_cannot_be_two_participants() -> None:
    made = tiny_participant()
    with pytest.raises(
        ValueError, match=r"'a' and 'b' hold the same backbone\.0\.weight; give each modules of its own"
    ):
        Federation({"a": made, "b": made})
    backbone = nn.Linear(4, 5)
    with pytest.raises(ValueError, match=r"'a' and 'student' hold the same backbone\.weight"):
        Federation({"a": Participant(backbone, nn.Linear(5, 3))}, Participant(backbone, nn.Linear(5, 3)))


# Averaging


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every_n_rounds": 0}, "every_n_rounds: expected at least 1, got 0"),
        ({"proximal": -1.0}, r"proximal: expected a finite weight of at least 0, got -1\.0"),
        ({"proximal": NAN}, "proximal: .*got nan"),
        ({"weighting": "size"}, "weighting: expected 'samples', 'uniform' or weights by name, got 'size'"),
        ({"weighting": {"a": -1.0}}, r"weighting: expected a finite weight of at least 0 for 'a', got -1\.0"),
        ({"weighting": {"a": NAN}}, "weighting: .*'a', got nan"),
        ({"weighting": {"a": 1e400}}, "weighting: .*'a', got inf"),
        ({"weighting": {"a": 0.0, "b": 0.0}}, "weighting: expected at least one weight above 0"),
        ({"buffers": "mean"}, "buffers: expected 'local', 'average' or 'reset', got 'mean'"),
        ({"optimizer_state": "drop"}, "optimizer_state: expected 'keep' or 'reset', got 'drop'"),
    ],
)
def test_settings_of_averaging(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BackboneAveraging(**settings)


def test_nothing_in_common_to_average() -> None:
    members = {"a": tiny_participant(hidden=5), "b": tiny_participant(hidden=6)}
    refused(
        Federation(members),
        r"nothing to average: no two participants share a key of one shape \(a offers backbone\.0\.weight.*; b offers",
        BackboneAveraging(),
    )


def test_a_participant_without_a_weight() -> None:
    refused(tiny_federation("ab"), "weighting: no weight for participant 'b'; it has a, bb", BackboneAveraging(
        weighting={"a": 1.0, "bb": 2.0}
    ))  # fmt: skip


# Distillation


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0.0}, r"temperature.*0\.0"),
        ({"temperature": -2.0}, r"temperature.*-2\.0"),
        ({"temperature": INF}, "temperature.*inf"),
        ({"temperature": NAN}, "temperature.*nan"),
        ({"temperature": LinearSchedule(0.0, 1.0, 5)}, "temperature"),
        ({"weight": -0.5}, r"weight: expected a finite number of at least 0, got -0\.5"),
        ({"weight": NAN}, "weight: .*got nan"),
        ({"weight": INF}, "weight: .*got inf"),
        ({"mode": "mixd"}, "mode: expected 'phase' or 'mixed', got 'mixd'"),
        ({"students": "all"}, "students: expected 'auto', 'mutual', 'student' or 'both', got 'all'"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"every_n_rounds": 0}, "every_n_rounds: expected at least 1, got 0"),
        ({"mixed_epochs": 0}, "mixed_epochs: expected at least 1 or None, got 0"),
    ],
)
def test_settings_of_distillation(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EnsembleDistillation(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": LinearSchedule(2.0, 0.0, 3)}, r"temperature.*0\.0"),
        ({"weight": LinearSchedule(1.0, -1.0, 4)}, "weight: .*in round 3"),
    ],
)
def test_a_schedule_that_runs_out_of_range_is_seen_before_training(settings: dict[str, Any], words: str) -> None:
    refused(tiny_federation("ab"), words, EnsembleDistillation(**settings), rounds=4)
    fit(tiny_federation("ab"), tiny_data("ab"), 2, EnsembleDistillation(**settings))  # it never gets that far


def test_distillation_without_a_public_set() -> None:
    refused(
        tiny_federation("ab"), r"needs a public set, and the data module has none: give FederatedDataModule\(public=",
        EnsembleDistillation(), data=tiny_data("ab", public=None),
    )  # fmt: skip


def test_a_public_set_that_a_participant_cannot_take() -> None:
    members = {"a": tiny_participant(), "wide": tiny_participant(features=6)}
    data = tiny_data(("a", "wide"), evaluated=False)
    train = {"a": examples(8), "wide": examples(8, features=6)}
    data = type(data)(train, public=data.data.public, batch_size=4)
    refused(
        Federation(members), r"participant 'wide' cannot take the public set: inputs of shape \(1, 4\) fail with",
        EnsembleDistillation(), data=data,
    )  # fmt: skip


def test_different_label_spaces() -> None:
    members = {"a": tiny_participant(classes=3), "newcomer": tiny_participant(classes=4, joins_at=1)}
    refused(
        Federation(members),
        r"participant 'newcomer' has 4 multiclass output\(s\), participant 'a' has 3 multiclass: .*one label space",
        EnsembleDistillation(),
    )


def test_a_student_of_another_label_space() -> None:
    refused(
        tiny_federation("ab", student=tiny_participant(classes=4)),
        r"participant 'student' has 4 multiclass output\(s\), participant 'a' has 3",
        EnsembleDistillation(),
    )


@pytest.mark.parametrize("students", ["student", "both"])
def test_a_student_that_does_not_exist_cannot_learn(students: Any) -> None:
    words = rf"students='{students}' needs Federation\(student="
    refused(tiny_federation("ab"), words, EnsembleDistillation(students=students))


def test_participants_without_names() -> None:
    with pytest.raises(TypeError, match=r"participants: expected \{'name': Participant, \.\.\.\}, got list"):
        Federation([tiny_participant()])  # type: ignore[arg-type]


def test_an_optimizer_that_is_made_already() -> None:
    made = tiny_participant()
    with pytest.raises(TypeError, match=r"optimizer: expected a function that makes one, such as lambda p:.*got SGD"):
        Participant(made.backbone, made.head, optimizer=torch.optim.SGD(made.parameters()))  # type: ignore[arg-type]


def test_a_rule_by_its_name() -> None:
    with pytest.raises(TypeError, match=r"rule: expected a function .*, got 'median'"):
        BackboneAveraging("median")  # type: ignore[arg-type]


def test_a_rule_that_needs_more_than_there_are() -> None:
    refused(
        tiny_federation("abcd"),
        r"MultiKrum needs at least 5 participants, as it is set, but a, b, c, d, who share backbone.0.weight, are 4",
        BackboneAveraging(MultiKrum(0.2)),
        data=tiny_data("abcd"),
    )


def test_a_rule_that_returns_nothing() -> None:
    with pytest.raises(ValueError, match=r"Round 0: expected of <lambda> a state, got NoneType"):
        fit(tiny_federation(), tiny_data(), 1, BackboneAveraging(lambda states, weights: None))  # type: ignore[arg-type, return-value]


def test_who_joins_after_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    federation = Federation({"a": tiny_participant(), "late": tiny_participant(seed=1, joins_at=2)})
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        fit(federation, tiny_data(("a", "late")), 2)
    assert "participant 'late' never trains: it joins at round 2" in caplog.text
