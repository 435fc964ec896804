import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetfed_lightning import (
    DPSGD,
    BackboneAveraging,
    CosineSchedule,
    EnsembleDistillation,
    FederatedDataModule,
    Federation,
    FederationView,
    LinearSchedule,
    Participant,
)
from hetfed_lightning.data import Examples
from hetfed_lightning.distillation import (
    ClassPriorWeighted,
    Ensemble,
    MeanLogits,
    MeanProbabilities,
    MedianProbabilities,
    SampleWeighted,
    Teachers,
    ValidationWeighted,
    soften,
)
from tests.federations import (
    Listed,
    Snapshots,
    SnapshotsBefore,
    equal,
    examples,
    fit,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
    values,
)

ENSEMBLES = [
    MeanProbabilities(),
    MeanLogits(),
    SampleWeighted(),
    ClassPriorWeighted(),
    ValidationWeighted(),
    MedianProbabilities(),
]


def linear(seed: int, rate: float = 0.0, **settings: Any) -> Participant:
    """Logits ``x W'`` of 4 features and 3 classes, in float64; it does not move at rate 0."""
    torch.manual_seed(seed)
    return Participant(nn.Linear(4, 3, bias=False), shared=(), optimizer=sgd(rate), **settings)


def weights_of(member: Participant) -> Tensor:
    return state_of(member)["backbone.weight"]


def public(data: FederatedDataModule) -> Tensor:
    inputs = data.data.public.inputs  # type: ignore[union-attr]
    assert isinstance(inputs, Tensor)
    return inputs


def data64(names: str = "ab", **settings: Any) -> FederatedDataModule:
    def wide(count: int, seed: int) -> Examples:
        made = examples(count, seed=seed)
        return Examples(made.inputs.double(), made.targets)  # type: ignore[union-attr]

    train = {name: wide(8, ord(name)) for name in names}
    settings.setdefault("batch_size", 4)
    return FederatedDataModule(train, public=wide(10, 300), **settings)


# The step by hand


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_one_step_of_a_linear_student_by_hand(temperature: float) -> None:
    # d/dz of T^2 KL(q || softmax(z / T)), mean over B, is T (softmax(z / T) - q) / B, and z = x W'.
    student, teachers = linear(0, rate=0.5), {"a": linear(1), "b": linear(2)}
    data = data64()
    callback = EnsembleDistillation(temperature=temperature, weight=0.7, batch_size=10)
    start = weights_of(student).double()
    spoken = [weights_of(teacher).double() for teacher in teachers.values()]
    fit(Federation(teachers, student), data, 1, callback, precision="64-true")
    inputs = public(data)
    target = torch.stack([(inputs @ weights.T / temperature).softmax(dim=1) for weights in spoken]).mean(dim=0)
    slope = temperature * ((inputs @ start.T / temperature).softmax(dim=1) - target) / 10
    expected = start - 0.5 * 0.7 * slope.T @ inputs
    torch.testing.assert_close(weights_of(student), expected, rtol=0, atol=1e-12)


def test_mixed_adds_the_distillation_to_the_local_loss() -> None:
    # One participant, full batches, everything in float64: w - eta (local gradient + weight * distillation gradient).
    rate, temperature, weight = 0.5, 2.0, 0.3
    member = linear(1, rate=rate)
    data = data64("a", batch_size=8)
    callback = EnsembleDistillation(
        mode="mixed", start_round=0, temperature=temperature, weight=weight, batch_size=10, ensemble=Uniform()
    )
    start = weights_of(member).double()
    fit(Federation({"a": member}), data, 1, callback, precision="64-true")
    train = data.data.train["a"]
    assert isinstance(train, Examples)
    assert isinstance(train.inputs, Tensor)
    assert train.targets is not None
    local = ((train.inputs @ start.T).softmax(dim=1) - nn.functional.one_hot(train.targets, 3)) / 8
    inputs = public(data)
    distilled = temperature * ((inputs @ start.T / temperature).softmax(dim=1) - 1 / 3) / 10
    expected = start - rate * (local.T @ train.inputs + weight * distilled.T @ inputs)
    torch.testing.assert_close(weights_of(member), expected, rtol=0, atol=1e-12)


class Uniform(Ensemble):
    """Says that every class is as likely, and notes when it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[str, ...], float]] = []

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        self.asked.append((teachers.names, temperature))
        return torch.full_like(teachers.logits[0], 1 / teachers.logits.shape[-1])


def test_students_agree_more_afterwards() -> None:
    federation = tiny_federation(participant={"optimizer": sgd(0.0)})
    callback = EnsembleDistillation(epochs=20, optimizer=lambda p: torch.optim.Adam(p, lr=0.05))
    fit(federation, tiny_data(), 2, callback)
    assert callback.agreement is not None
    names, agreement = callback.agreement
    assert names == ("a", "b", "c")
    first = EnsembleDistillation()
    fit(tiny_federation(participant={"optimizer": sgd(0.0)}), tiny_data(), 1, first)
    assert first.agreement is not None
    assert agreement.mean() > first.agreement[1].mean()


# Who learns, and when


def moved(federation: Federation, *callbacks: Any, rounds: int = 1) -> list[set[str]]:
    """Who is changed by what happens together, by round; nobody moves in the local steps."""
    before, after = SnapshotsBefore(), Snapshots()
    fit(federation, tiny_data(), rounds, before, *callbacks, after)
    return [
        {name for name in end if not equal(own[name], end[name])}
        for own, end in zip(before.ends, after.ends, strict=True)
    ]


@pytest.mark.parametrize(
    ("students", "with_student", "learners"),
    [
        ("auto", False, {"a", "b", "c"}),
        ("auto", True, {"student"}),
        ("mutual", True, {"a", "b", "c"}),
        ("student", True, {"student"}),
        ("both", True, {"a", "b", "c", "student"}),
    ],
)
def test_who_learns(students: Any, with_student: bool, learners: set[str]) -> None:
    federation = tiny_federation(student=tiny_participant(seed=9) if with_student else None)
    assert moved(federation, EnsembleDistillation(students=students)) == [learners]


def test_mixed_learns_in_the_local_steps_and_the_student_in_a_phase() -> None:
    federation = tiny_federation(student=tiny_participant(seed=9), participant={"optimizer": sgd(0.1)})
    alone = tiny_federation(participant={"optimizer": sgd(0.1)})
    found = moved(federation, EnsembleDistillation(mode="mixed", students="both", start_round=0))
    assert found == [{"student"}]
    fit(alone, tiny_data(), 1)
    assert not equal(state_of(federation["a"]), state_of(alone["a"]))


def test_targets_for_the_student_alone_go_to_nobody_else() -> None:
    """In mixed mode participants have those of the round's start; the ones of its end are made where the student is."""
    federation = tiny_federation(student=tiny_participant(seed=9))
    found = fit(federation, tiny_data(), 1, EnsembleDistillation(mode="mixed", students="both", start_round=0))
    assert found.callback_metrics["federation/bytes_down/distillation"] == 3 * 10 * 3 * 4
    assert found.callback_metrics["federation/bytes_up/distillation"] == 2 * 3 * 10 * 3 * 4


def test_mixed_waits_a_round_by_default() -> None:
    callback = EnsembleDistillation(Uniform(), mode="mixed")
    fit(tiny_federation(), tiny_data(), 3, callback)
    assert isinstance(callback.ensemble, Uniform)
    assert len(callback.ensemble.asked) == 2
    first, plain = tiny_federation(), tiny_federation()
    fit(first, tiny_data(), 1, EnsembleDistillation(mode="mixed"))
    fit(plain, tiny_data(), 1)
    assert equal(state_of(first), state_of(plain))


@pytest.mark.parametrize(
    ("settings", "due"),
    [({}, [0, 1, 2, 3, 4]), ({"every_n_rounds": 2}, [0, 2, 4]), ({"start_round": 3}, [3, 4]),
     ({"every_n_rounds": 3, "start_round": 1}, [1, 4])],
)  # fmt: skip
def test_rounds_that_distil(settings: dict[str, Any], due: list[int]) -> None:
    found = moved(tiny_federation(), EnsembleDistillation(**settings), rounds=5)
    assert [index for index, learners in enumerate(found) if learners] == due


def test_mixed_epochs_leaves_the_first_passes_alone() -> None:
    steps: dict[str, list[int]] = {"a": [], "b": []}

    class Noting(EnsembleDistillation):
        def public_loss(
            self, federation: FederationView, participant: Participant, indices: Tensor, augment: Any = None
        ) -> Tensor:
            steps[participant.name or ""].append(federation.batches_done - 1)
            return super().public_loss(federation, participant, indices, augment)

    # 12 and 16 samples in batches of 4: passes of 3 and of 4 steps, three of them; the last two distil.
    federation = tiny_federation("ab", participant={"local_epochs": 3}, engine="sequential")
    fit(federation, tiny_data("ab"), 1, Noting(mode="mixed", mixed_epochs=2, start_round=0))
    assert steps == {"a": list(range(3, 9)), "b": list(range(4, 12))}


def test_mixed_batches_pass_through_the_whole_public_set() -> None:
    seen: list[Tensor] = []

    class Noting(EnsembleDistillation):
        def public_loss(
            self, federation: FederationView, participant: Participant, indices: Tensor, augment: Any = None
        ) -> Tensor:
            seen.append(indices)
            return super().public_loss(federation, participant, indices, augment)

    # 12 samples in batches of 2: six steps, two passes over 10 public ones in batches of 4, 4 and 2.
    fit(tiny_federation("a"), tiny_data("a", batch_size=2), 1, Noting(mode="mixed", start_round=0, batch_size=4))
    assert [len(indices) for indices in seen] == [4, 4, 2, 4, 4, 2]
    for start in (0, 3):
        assert sorted(torch.cat(seen[start : start + 3]).tolist()) == list(range(10))


def test_schedules_of_temperature_and_weight() -> None:
    uniform = Uniform()
    callback = EnsembleDistillation(
        uniform, temperature=LinearSchedule(4.0, 1.0, 3), weight=CosineSchedule(0.0, 1.0, 2)
    )
    found = moved(tiny_federation(), callback, rounds=4)
    assert [temperature for _, temperature in uniform.asked] == [4.0, 3.0, 2.0, 1.0]
    assert found == [set(), {"a", "b", "c"}, {"a", "b", "c"}, {"a", "b", "c"}]  # at weight 0 nobody moves


def test_an_optimizer_of_the_phase_leaves_the_participants_own_alone() -> None:
    still = tiny_federation(participant={"optimizer": sgd(0.0, momentum=0.9)})
    assert moved(still, EnsembleDistillation()) == [set()]
    still = tiny_federation(participant={"optimizer": sgd(0.0, momentum=0.9)})
    own = EnsembleDistillation(optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
    assert moved(still, own) == [{"a", "b", "c"}]
    for local in still.local.values():
        assert all(set(state) == {"momentum_buffer"} for state in local.optimizers[0].state.values())


# What the teachers say


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=lambda ensemble: type(ensemble).__name__)
@pytest.mark.parametrize("mode", ["phase", "mixed"])
def test_every_ensemble(ensemble: Ensemble, mode: Any) -> None:
    federation = tiny_federation(participation=0.67)
    trained = fit(federation, tiny_data(), 2, EnsembleDistillation(ensemble, mode=mode), BackboneAveraging())
    assert all(torch.isfinite(tensor).all() for tensor in state_of(federation).values())
    assert 0 <= trained.callback_metrics["federation/teacher_agreement"] <= 1


class Gathers(Ensemble):
    """Keeps what it is told."""

    needs = ("samples", "class_counts", "scores")

    def __init__(self) -> None:
        self.told: list[Teachers] = []

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        self.told.append(teachers)
        return soften(teachers.logits, temperature, teachers.kind).mean(dim=0)


def test_what_an_ensemble_is_told() -> None:
    gathers, data, federation = Gathers(), tiny_data(), tiny_federation(participant={"optimizer": sgd(0.0)})
    callback = EnsembleDistillation(gathers)
    trained = fit(federation, data, 2, callback)
    first, second = gathers.told
    assert first.names == ("a", "b", "c")
    assert first.samples is not None
    assert first.samples.tolist() == [12, 16, 20]
    assert first.class_counts is not None
    for name, counts in zip("abc", first.class_counts, strict=True):
        assert torch.equal(counts, data.train_targets(name).bincount(minlength=3))
    assert first.scores is not None
    assert second.scores is not None
    assert first.scores.tolist() == [1, 1, 1]  # before the first validation all count the same
    assert second.scores.tolist() == [float(trained.callback_metrics[f"val_accuracy/{name}"]) for name in "abc"]
    for name, logits in zip("abc", first.logits, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(logits, federation[name](public(data)))


def test_teachers_are_asked_once_a_round_about_everything() -> None:
    calls: Counter[str] = Counter()

    class Counting(Participant):
        def forward(self, inputs: Any) -> Tensor:
            if not torch.is_grad_enabled() and len(inputs) == 10:
                assert not self.training
                calls[self.name or ""] += 1
            return super().forward(inputs)

    def made() -> Participant:
        return Counting(nn.Linear(4, 3), shared=(), optimizer=sgd())

    federation = Federation({name: made() for name in "abc"}, student=made())
    callback = EnsembleDistillation(students="both", epochs=3, batch_size=3)
    fit(federation, tiny_data(evaluated=False), 2, callback)
    assert calls == {"a": 2, "b": 2, "c": 2}


def test_bytes_by_hand() -> None:
    seen = Snapshots()
    fit(tiny_federation(), tiny_data(), 1, EnsembleDistillation(), seen)
    # 10 public samples, 3 classes, 4 bytes: up from each of three, down to each.
    assert seen.bytes == [(3 * 120, 3 * 120)]
    seen = Snapshots()
    fit(tiny_federation(student=tiny_participant(seed=9)), tiny_data(), 1, EnsembleDistillation(), seen)
    assert seen.bytes == [(3 * 120, 0)]  # the student is where the predictions are


def test_newcomers_teach_from_the_end_of_their_first_round() -> None:
    phase, mixed = Uniform(), Uniform()
    for uniform, mode in ((phase, "phase"), (mixed, "mixed")):
        federation = tiny_federation()
        federation["c"].joins_at = 1
        callback = EnsembleDistillation(uniform, mode=mode, start_round=0)  # type: ignore[arg-type]
        fit(federation, tiny_data(), 3, callback)
    assert [names for names, _ in phase.asked] == [("a", "b"), ("a", "b", "c"), ("a", "b", "c")]
    # Mixed asks before the local steps: a newcomer has learned nothing then.
    assert [names for names, _ in mixed.asked] == [("a", "b"), ("a", "b"), ("a", "b", "c")]


@pytest.mark.parametrize("listed", [False, True], ids=["in memory", "sample by sample"])
def test_raw_public_samples_pass_each_participants_own_transform(listed: bool) -> None:
    raw: dict[str, list[Tensor]] = {"a": [], "b": []}

    def keeping(name: str, factor: float) -> Any:
        def transform(inputs: Tensor) -> Tensor:
            raw[name].append(inputs.clone())
            return inputs[:, :2] * factor

        return transform

    gathers = Gathers()
    members = {
        name: Participant(nn.Linear(2, 3), shared=(), optimizer=sgd(0.0), transform=keeping(name, factor))
        for name, factor in (("a", 1.0), ("b", 10.0))
    }
    samples = examples(10, seed=300)
    data = tiny_data("ab", evaluated=False, public=Listed(samples) if listed else samples)
    fit(Federation(members), data, 1, EnsembleDistillation(gathers))
    inputs = samples.inputs
    assert isinstance(inputs, Tensor)
    for name, factor in (("a", 1.0), ("b", 10.0)):
        assert any(torch.equal(seen, inputs) for seen in raw[name])
        with torch.no_grad():
            expected = members[name](inputs[:, :2] * factor)
        torch.testing.assert_close(gathers.told[0].logits["ab".index(name)], expected)


def test_random_layers_of_teachers_are_switched_off_and_on_again() -> None:
    gathers = Gathers()
    members = {
        name: Participant(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), shared=(), optimizer=sgd(0.0))
        for name in "ab"
    }
    data = tiny_data("ab", evaluated=False)
    fit(Federation(members), data, 1, EnsembleDistillation(gathers))
    assert all(member.training for member in members.values())
    with torch.no_grad():
        torch.testing.assert_close(gathers.told[0].logits[0], members["a"].eval()(public(data)))


# Kinds of task


def two_of(task: Any, width: int, targets: Tensor, head: Any = None) -> tuple[Federation, FederatedDataModule]:
    inputs = examples(len(targets), seed=5).inputs
    members = {name: Participant(nn.Linear(4, width), head, shared=(), task=task, optimizer=sgd(0.1)) for name in "ab"}
    sets = {name: Examples(inputs, targets) for name in "ab"}
    return Federation(members), FederatedDataModule(sets, sets, public=examples(10), batch_size=4)


@pytest.mark.parametrize("mode", ["phase", "mixed"])
@pytest.mark.parametrize(
    ("task", "width", "targets", "head"),
    [
        ("multiclass", 3, torch.arange(12) % 3, None),
        ("binary", 1, torch.arange(12) % 2, None),
        ("binary", 1, torch.arange(12) % 2, nn.Flatten(0)),  # gives (B,) instead of (B, 1)
        ("multilabel", 2, torch.stack([torch.arange(12) % 2, torch.arange(12) % 3 == 0], dim=1), None),
        ("regression", 1, torch.linspace(-1, 1, 12), None),
        ("regression", 1, torch.linspace(-1, 1, 12), nn.Flatten(0)),
        ("regression", 2, torch.linspace(-1, 1, 24).reshape(12, 2), None),
    ],
)
def test_every_kind_of_task_distils(task: Any, width: int, targets: Tensor, head: Any, mode: Any) -> None:
    ends = []
    for callbacks in ([], [EnsembleDistillation(mode=mode, start_round=0)]):
        torch.manual_seed(0)
        federation, data = two_of(task, width, targets, head)
        trained = fit(federation, data, 1, *callbacks)
        assert f"val_{federation['a'].task.headline}/a" in trained.callback_metrics
        ends.append(state_of(federation))
    assert all(torch.isfinite(tensor).all() for tensor in ends[1].values())
    assert not equal(*ends)


def test_regression_distils_by_squared_error() -> None:
    # 4 features, one value: gradient of mean (x w - q)^2 is 2 x'(x w - q) / B.
    torch.manual_seed(0)
    members = {
        name: Participant(nn.Linear(4, 1, bias=False), shared=(), task="regression", optimizer=sgd(0.0))
        for name in "ab"
    }
    student = Participant(nn.Linear(4, 1, bias=False), shared=(), task="regression", optimizer=sgd(0.1))
    shown = values(10, features=4, seed=1)
    data = FederatedDataModule({name: values(8, features=4) for name in "ab"}, public=shown, batch_size=4)
    start = weights_of(student).double()
    callback = EnsembleDistillation(batch_size=10, temperature=5.0)
    fit(Federation(members, student), data, 1, callback, precision="64-true")
    inputs = shown.inputs
    assert isinstance(inputs, Tensor)
    target = inputs @ ((weights_of(members["a"]) + weights_of(members["b"])) / 2).T
    expected = start - 0.1 * (2 * inputs.T @ (inputs @ start.T - target) / 10).T
    torch.testing.assert_close(weights_of(student), expected, rtol=0, atol=1e-12)


# The unified student


class Watching(Participant):
    """Notes every input that it learns on."""

    seen: list[Tensor]

    def forward(self, inputs: Any) -> Tensor:
        if torch.is_grad_enabled():
            self.seen.append(inputs.detach().clone())
        return super().forward(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise AssertionError("the student has no data of its own")


def watching() -> Watching:
    torch.manual_seed(9)
    made = Watching(nn.Linear(4, 3), shared=(), optimizer=sgd())
    made.seen = []
    return made


def test_the_student_learns_on_public_samples_alone(tmp_path: Path) -> None:
    student, data = watching(), tiny_data()
    federation = Federation(tiny_federation().members(), student)
    trained = fit(federation, data, 2, EnsembleDistillation(batch_size=4, epochs=2), BackboneAveraging())
    # Two rounds of two passes over ten samples, and none of anyone's own.
    rows = [tuple(row) for row in public(data).tolist()]
    assert Counter(tuple(row) for batch in student.seen for row in batch.tolist()) == dict.fromkeys(rows, 4)
    metrics = trained.callback_metrics
    assert "val_global_accuracy/student" in metrics
    assert "val_accuracy/student" not in metrics
    assert "train_loss/student" not in metrics
    # It is a model of its own.
    path = tmp_path / "federation.ckpt"
    trained.save_checkpoint(path)
    alone = Participant.load_from_checkpoint(path, participant="student", backbone=nn.Linear(4, 3))
    torch.testing.assert_close(alone(public(data)), student(public(data)))
    predicted = trained.predict(federation, datamodule=data)
    assert predicted is not None
    assert torch.cat(predicted).shape == (18, 3)  # type: ignore[arg-type]


def test_without_distillation_the_student_stays_as_it_is() -> None:
    student = watching()
    before = state_of(student)
    fit(Federation(tiny_federation().members(), student), tiny_data(), 2, BackboneAveraging())
    assert equal(before, state_of(student))


def test_equal_teachers_do_not_move_a_student_that_agrees() -> None:
    members = {name: linear(1) for name in "ab"}
    student = linear(1, rate=1.0)
    before = weights_of(student).double()
    fit(Federation(members, student), data64(), 1, EnsembleDistillation(), precision="64-true")
    torch.testing.assert_close(weights_of(student), before, rtol=0, atol=1e-12)


# Refusals


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_out_of_range(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        EnsembleDistillation(temperature=temperature)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"every_n_rounds": 0}, "every_n_rounds: expected at least 1, got 0"),
        ({"mixed_epochs": 0}, "mixed_epochs: expected at least 1 or None, got 0"),
        ({"weight": -1.0}, "weight: expected a finite number of at least 0, got -1.0"),
        ({"weight": math.inf}, "weight: .*got inf"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EnsembleDistillation(**settings)


def test_a_schedule_that_cools_to_nothing_is_refused_when_it_gets_there() -> None:
    callback = EnsembleDistillation(temperature=LinearSchedule(2.0, 0.0, 1))
    with pytest.raises(ValueError, match="temperature"):
        fit(tiny_federation(), tiny_data(), 2, callback)


def test_no_public_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a public set, and the data module has none: give FederatedDataModule"):
        fit(tiny_federation(), tiny_data(public=None), 1, EnsembleDistillation())


def test_no_student_is_refused() -> None:
    with pytest.raises(ValueError, match=r"students='both' needs Federation\(student"):
        fit(tiny_federation(), tiny_data(), 1, EnsembleDistillation(students="both"))


def test_other_label_spaces_are_refused_by_name() -> None:
    members = {"a": tiny_participant(classes=3), "b": tiny_participant(classes=4)}
    with pytest.raises(
        ValueError, match=r"participant 'b' has 4 multiclass output\(s\), participant 'a' has 3 multiclass"
    ):
        fit(Federation(members), tiny_data("ab"), 1, EnsembleDistillation())


def test_a_student_of_another_label_space_is_refused_by_name() -> None:
    federation = tiny_federation(student=tiny_participant(classes=5))
    with pytest.raises(ValueError, match=r"participant 'student' has 5 multiclass output\(s\)"):
        fit(federation, tiny_data(), 1, EnsembleDistillation())


def test_other_tasks_are_refused_by_name() -> None:
    members = {
        "a": Participant(nn.Linear(4, 1), task="binary"),
        "b": Participant(nn.Linear(4, 1), task="regression"),
    }
    sets = {"a": Examples(torch.randn(8, 4), torch.arange(8) % 2), "b": values(8, features=4, dtype=torch.float32)}
    data = FederatedDataModule(sets, public=examples(10))
    with pytest.raises(ValueError, match=r"participant 'b' has 1 regression output\(s\), participant 'a' has 1 binary"):
        fit(Federation(members), data, 1, EnsembleDistillation())


def test_public_samples_that_a_participant_cannot_take_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"participant 'a' cannot take the public set: inputs of shape \(1, 7\)"):
        fit(tiny_federation(), tiny_data(public=examples(10, features=7)), 1, EnsembleDistillation())


class Density(MeanLogits):
    """Asks for outputs above the mean feature, and keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[dict[str, Tensor]] = []

    def message(self, outputs: Tensor, features: Tensor, data: Any) -> Tensor:
        shift: Tensor = data.features.mean()
        return outputs + features.mean(1, keepdim=True) + shift

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        self.given.append(dict(zip(teachers.names, teachers.logits, strict=True)))
        return super().__call__(teachers, temperature)


def test_an_ensemble_may_ask_for_another_message_than_the_outputs() -> None:
    federation, data, ensemble, seen = tiny_federation(), tiny_data(), Density(), SnapshotsBefore()
    run = fit(federation, data, 1, EnsembleDistillation(ensemble), seen)
    inputs = data.public_inputs(torch.arange(data.num_public))
    for name in "abc":
        taught = tiny_participant()
        taught.load_state_dict(seen.ends[0][name])
        own = data.source(name).dataset
        assert isinstance(own, Examples)
        with torch.no_grad():
            features, mean = taught.backbone(inputs), taught.backbone(own.inputs).mean()
            torch.testing.assert_close(ensemble.given[0][name], taught.head(features) + features.mean(1, True) + mean)
    assert "federation/teacher_agreement" not in run.callback_metrics


def test_a_message_is_not_made_of_private_examples() -> None:
    pytest.importorskip("opacus")
    private = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-3, max_epsilon=100)
    federation = tiny_federation(participant={"privacy": private})
    with pytest.raises(ValueError, match=r"participant 'a': privacy=DPSGD.*beside distillation.*It is Density"):
        fit(federation, tiny_data(), 1, EnsembleDistillation(Density()))
    assert not federation.has_trained


class OneClass(MeanProbabilities):
    """Says one class of everything."""

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        return nn.functional.one_hot(torch.full((len(teachers.logits[0]),), 2), 3).float()


def test_targets_of_one_class_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    trainer = fit(tiny_federation(), tiny_data(), 3, EnsembleDistillation(OneClass()))
    assert trainer.callback_metrics["federation/target_classes"] == 1.0
    told = [one for one in caplog.messages if "of 3 classes in effect" in one]
    assert len(told) == 1
    assert told[0].startswith("Round 0: the targets that distillation makes name 1.0 of 3 classes in effect. If the")
    caplog.clear()
    fit(tiny_federation(), tiny_data(), 3, EnsembleDistillation())
    assert not [one for one in caplog.messages if "classes in effect" in one]
