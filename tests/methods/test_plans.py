"""Plans of local work against loops by hand, in one process and in fleets; resumed, drawn, refused."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from hetfed_lightning import (
    DPSGD,
    BackboneAveraging,
    FederatedCallback,
    FederatedDataModule,
    Federation,
    Participant,
)
from hetfed_lightning.local_training.dpsgd_steps import PrivacyBudgetError
from hetfed_lightning.methods.plans import Part, PlanError, spans
from tests.federations import (
    Listed,
    Snapshots,
    equal,
    examples,
    fit,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
)
from tests.fleets.kin import COUNTS, OPTIMIZERS, classes, furthest, members, slow
from tests.methods.planned import BACKBONE, HEAD, Planned, head_then_backbone

ROUNDS = 3
ADAM = {"adam": lambda p: torch.optim.Adam(p, lr=0.02), "adamw": lambda p: torch.optim.AdamW(p, lr=0.02)}
MADE: dict[str, Any] = {
    "sgd": sgd(),
    "momentum and decay": sgd(momentum=0.9, weight_decay=0.1),
    **ADAM,
}


def close(one: Any, other: Any) -> None:
    """Equal but for rounding in float64."""
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


# By hand: FedRep


def fedrep_by_hand(make: Any, head: int, backbone: int, clip: float | None) -> dict[str, dict[str, Tensor]]:
    """States after full-batch rounds: epochs of the head, epochs of the backbone, the mean of the backbones."""
    models = {name: tiny_participant().double() for name in "abc"}
    data = {name: examples(12 + 4 * place, seed=place) for place, name in enumerate("abc")}
    # An optimizer for each half, which knows nothing of the other.
    halves = {
        name: [(model.head, make(model.head.parameters()), head),
               (model.backbone, make(model.backbone.parameters()), backbone)]
        for name, model in models.items()
    }  # fmt: skip
    for _ in range(ROUNDS):
        for name, model in models.items():
            for half, optimizer, epochs in halves[name]:
                for _ in range(epochs):
                    model.zero_grad()
                    inputs, target = data[name].inputs, data[name].targets
                    assert isinstance(inputs, Tensor)
                    assert target is not None
                    F.cross_entropy(model.head(model.backbone(inputs.double())), target).backward()
                    if clip is not None:
                        clip_grad_norm_(half.parameters(), clip)
                    optimizer.step()
        with torch.no_grad():
            for same in zip(*(model.backbone.parameters() for model in models.values()), strict=True):
                mean = torch.stack([one.detach() for one in same]).mean(0)
                for one in same:
                    one.copy_(mean)
    return {name: dict(model.state_dict()) for name, model in models.items()}


@pytest.mark.parametrize("engine", ["sequential", "batched", slow("vmap")])
@pytest.mark.parametrize("kind", list(MADE))
@pytest.mark.parametrize("clip", [None, 0.1])
def test_head_then_backbone_equals_a_loop_by_hand(engine: Any, kind: str, clip: float | None) -> None:
    own = {"optimizer": MADE[kind], "gradient_clip_val": clip, "local_epochs": 7}
    federation = Federation({name: tiny_participant(**own) for name in "abc"}, engine=engine)
    methods = (Planned(head_then_backbone(2, 3)), BackboneAveraging(weighting="uniform"))
    fit(federation, tiny_data(batch_size=100, evaluated=False), ROUNDS, *methods, precision="64-true")
    if engine != "sequential":
        assert set(federation.fleets.chosen.values()) == {engine}
    for name, state in fedrep_by_hand(MADE[kind], 2, 3, clip).items():
        close(dict(federation[name].state_dict()), state)


class FedRep(BackboneAveraging):
    """Averaging that plans: two epochs of the head, one of the backbone, two more of the head on what was received."""

    def plan(self, participant: Participant, moment: Any, round_index: int) -> list[Part]:
        parts = {"local": [Part(epochs=2, trains=HEAD), Part(epochs=1, trains=BACKBONE)]}
        return (parts | {"received": [Part(epochs=2, trains=HEAD)]}).get(moment, [])


def test_averaging_itself_may_plan() -> None:
    found = []
    received = Planned(lambda _: [Part(epochs=2, trains=HEAD)], "received")
    received.name = "received"
    for methods in ([FedRep()], [Planned(head_then_backbone()), BackboneAveraging(), received]):
        federation = tiny_federation()
        fit(federation, tiny_data(batch_size=100), ROUNDS, *methods, precision="64-true")
        found.append(federation)
    for name in "abc":
        close(dict(found[0][name].state_dict()), dict(found[1][name].state_dict()))


# In fleets: members at different parts, of different lengths

UNEQUAL = {
    "a": head_then_backbone(1, 1),  # 3 batches each.
    "b": lambda index: [Part(steps=0)] if index == 1 else [Part(steps=2, trains=("*", "!*.bias")), Part(steps=5)],
    "c": lambda index: [Part(epochs=2 + index)],
    "d": lambda index: [Part(steps=1, trains=("*.weight",)), Part(epochs=1, trains=BACKBONE)] if index else (),
}


@pytest.mark.parametrize("engine", ["batched", slow("vmap")])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_fleet_trains_what_its_members_train_one_after_another(
    engine: Any, optimizer: str, clip: float | None
) -> None:
    found = []
    for each in ("sequential", engine):
        federation = Federation(members(OPTIMIZERS[optimizer], gradient_clip_val=clip), engine=each)
        fit(federation, classes(torch.float64), 3, Planned(UNEQUAL), BackboneAveraging(), precision="64-true")
        found.append(federation)
    assert set(found[1].fleets.chosen.values()) == {engine}
    assert furthest(found[1], found[0]) < 1e-11
    for name in COUNTS:
        one, other = (each.local[name].optimizers[0].state_dict()["state"] for each in found)
        for place in one.keys() & other.keys():
            for key in one[place].keys() & other[place].keys():
                if one[place][key] is not None:
                    torch.testing.assert_close(one[place][key], other[place][key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_values_and_optimizer_states_of_still_parameters_are_untouched(engine: Any) -> None:
    class Watch(FederatedCallback):
        """States of the optimizers and of the backbones at every batch."""

        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_train_batch_end(self, trainer: L.Trainer, federation: Any, *_: Any) -> None:
            own = federation.local["a"].optimizers[0]
            body = list(federation["a"].backbone.parameters())
            moments = [own.state[one][key].clone() for one in body for key in ("exp_avg", "exp_avg_sq", "step")]
            self.seen.append([one.detach().clone() for one in body] + moments)

    federation = tiny_federation(engine=engine, participant={"optimizer": lambda p: torch.optim.AdamW(p, 0.1)})
    later = [Part(epochs=1, trains=HEAD), Part(steps=1)]
    watch = Watch()
    fit(federation, tiny_data(), 2, Planned(lambda index: [Part(epochs=1)] if index == 0 else later), watch)
    # Of "a" 3 batches a pass; the round of the longest plan has 5, and so has the first; 6 the second.
    first, after = watch.seen[4], watch.seen[5:]
    for one in after[:3]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, first, strict=True))
    assert not any(torch.equal(mine, theirs) for mine, theirs in zip(after[3], first, strict=True))


# What is drawn


class Counting(Listed):
    """Counts what is read of it."""

    def __init__(self, inside: Any) -> None:
        super().__init__(inside)
        self.read: list[int] = []

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return super().__getitem__(index)


class Noting(FederatedCallback):
    """Lengths of the rounds, for all and as each is told."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.told: list[dict[str, int]] = []

    def on_round_start(self, trainer: L.Trainer, federation: Any, round_index: int) -> None:
        self.lengths.append(int(trainer.num_training_batches))
        self.told.append({name: one.trainer.num_training_batches for name, one in federation.members().items()})


def test_no_batch_is_drawn_in_vain_and_a_round_is_as_long_as_its_longest_plan() -> None:
    sets = {name: Counting(examples(12, seed=place)) for place, name in enumerate("ab")}
    plans = {
        "a": lambda index: [[Part(epochs=2)], [Part(steps=0)], [Part(steps=1), Part(steps=3, trains=HEAD)]][index],
        "b": lambda index: [[Part(epochs=0)], [Part(steps=2)], [Part(epochs=1)]][index],
    }
    noting = Noting()
    federation = tiny_federation("ab")
    fit(federation, FederatedDataModule(sets, batch_size=4), 3, Planned(plans), noting)
    assert noting.lengths == [6, 2, 4]
    assert noting.told == [{"a": 6, "b": 0}, {"a": 0, "b": 2}, {"a": 4, "b": 3}]
    assert [federation.local[name].progress for name in "ab"] == [10, 5]
    first = 1 + 12  # The first example is looked at before training.
    read = {name: Counter(one.read) for name, one in sets.items()}
    assert sum(read["a"].values()) - 4 * 10 == sum(read["b"].values()) - 4 * 5 < first
    # Two passes, no batch, one pass and a batch of the next; none, two batches, one pass.
    assert all(count >= 3 for count in read["a"].values())


def test_rounds_without_a_step_of_anybody_pass() -> None:
    federation = tiny_federation()
    seen = Snapshots()
    fit(federation, tiny_data(), 2, Planned(lambda index: [Part(steps=index)]), BackboneAveraging(), seen)
    assert equal(seen.starts[0]["a"], seen.ends[0]["a"])
    assert not equal(seen.starts[1]["a"], seen.ends[1]["a"])
    assert {federation.local[name].progress for name in "abc"} == {1}


def test_a_run_without_an_end_may_begin_with_a_round_without_a_step() -> None:
    federation = tiny_federation("a")
    fit(federation, tiny_data("a"), -1, Planned(lambda index: [Part(steps=index)]), max_steps=4)
    assert federation.local["a"].progress == 1 + 2  # The first round is one empty batch.


def test_a_validation_may_be_due_after_more_batches_than_the_first_round_has() -> None:
    noting = Noting()
    plan = Planned(lambda index: [Part(steps=2 + 3 * index)])
    fit(tiny_federation(), tiny_data(), 2, plan, noting, val_check_interval=4)
    assert noting.lengths == [2, 5]


def test_the_trainers_limit_cuts_a_plan_at_its_end() -> None:
    federation = tiny_federation()
    start = state_of(federation["a"].backbone)
    fit(federation, tiny_data(), 2, Planned(head_then_backbone()), limit_train_batches=6)
    # 6 of the 9 batches of "a" are those of the head.
    assert equal(state_of(federation["a"].backbone), start)
    assert federation.local["a"].progress == 12


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize(("rounds", "steps"), [(3, -1), (-1, 11)])
def test_everyone_takes_as_many_steps_as_it_was_told(accumulated: int, rounds: int, steps: int) -> None:
    class Foreseeing(Participant):
        foreseen: Any = None

        def configure_optimizers(self) -> Any:
            self.foreseen = self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    plans = {
        "a": lambda index: [Part(steps=3 - index % 2, trains=HEAD), Part(epochs=1)],
        "b": lambda index: [Part(steps=2), Part(steps=3, optimizer=sgd())],
    }
    own: dict[str, Any] = {"optimizer": sgd(), "accumulate_grad_batches": accumulated}
    made = {name: Foreseeing(nn.Linear(4, 5), nn.Linear(5, 3), **own) for name in "abc"}
    federation = Federation(dict(made))
    fit(federation, tiny_data(), rounds, Planned(plans), max_steps=steps)
    assert {name: federation.local[name].progress for name in "abc"} == {name: made[name].foreseen for name in "abc"}


def test_an_accumulation_ends_with_its_part() -> None:
    """Three batches, two at a time: the third alone, and none of its gradient in the next part."""
    made = {}
    for size in (2, 100):
        federation = tiny_federation("a", participant={"accumulate_grad_batches": size})
        fit(federation, tiny_data("a"), 1, Planned(head_then_backbone(1, 1)))
        made[size] = federation
    assert made[2].local["a"].progress == 4
    assert made[100].local["a"].progress == 2


# An optimizer of a part


@pytest.mark.parametrize("engine", ["sequential", "auto"])
def test_an_optimizer_of_a_part_is_made_anew_each_round(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    fresh = sgd(0.2, momentum=0.9)
    federation = tiny_federation(engine=engine, participant={"optimizer": sgd(momentum=0.9)})
    plan = [Part(epochs=2, trains=HEAD, optimizer=fresh), Part(epochs=1)]
    with caplog.at_level("INFO", "hetfed_lightning"):
        fit(federation, tiny_data(batch_size=100), ROUNDS, Planned(lambda _: plan), precision="64-true")
    model, data = tiny_participant().double(), examples(12)
    own = sgd(momentum=0.9)(model.parameters())
    for _ in range(ROUNDS):
        for optimizer in [fresh(model.head.parameters())] * 2 + [own]:
            model.zero_grad()
            assert isinstance(data.inputs, Tensor)
            assert data.targets is not None
            F.cross_entropy(model.head(model.backbone(data.inputs.double())), data.targets).backward()
            optimizer.step()
    close(dict(federation["a"].state_dict()), dict(model.state_dict()))
    told = "one after another in rounds such as 0, since a part of their plans has an optimizer of its own"
    assert (told in caplog.text) == (engine == "auto")
    assert federation.local["a"].progress == ROUNDS


# Resumed, on several ranks, private


@pytest.mark.parametrize(("engine", "own"), [("batched", None), ("sequential", lambda p: torch.optim.Adam(p, lr=0.01))])
def test_a_run_resumed_at_any_batch_equals_one_that_was_never_stopped(engine: Any, own: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": tmp_path}

    def run(folder: str, **more: Any) -> Federation:
        federation = tiny_federation(
            "ab",
            engine=engine,
            participant={"optimizer": ADAM["adam"], "accumulate_grad_batches": 2 if own else 1},
        )
        plans: dict[str, Any] = {
            "a": head_then_backbone(1, 1, optimizer=own),
            "b": lambda index: [Part(steps=1 - index), Part(steps=3, trains=HEAD)],
        }
        saving = ModelCheckpoint(tmp_path / folder, "{epoch}-{step}", save_top_k=-1, every_n_train_steps=1)
        fit(federation, tiny_data("ab"), 2, Planned(plans), BackboneAveraging(), saving, **settings, **more)
        return federation

    whole = run("whole")
    paths = sorted(tmp_path.glob("whole/*.ckpt"))
    assert len(paths) == 12
    for path in paths:
        resumed = run(path.stem, ckpt_path=path)
        assert equal(state_of(resumed), state_of(whole)), path.name
        assert resumed.local["a"].progress == whole.local["a"].progress


def test_worker_processes_read_ahead_what_is_planned() -> None:
    found = []
    for workers in (0, 1):
        federation = tiny_federation("ab")
        sets: dict[str, Any] = {name: Listed(examples(12, seed=place)) for place, name in enumerate("ab")}
        data = FederatedDataModule(sets, batch_size=4, num_workers=workers)
        fit(federation, data, 3, Planned(lambda index: [Part(steps=2 * index), Part(steps=1, trains=HEAD)]))
        found.append(state_of(federation))
    assert equal(*found)


def test_a_privacy_budget_is_for_the_steps_that_are_planned() -> None:
    def run(limit: float | None, *methods: Planned, **settings: Any) -> Participant:
        made = tiny_participant(privacy=DPSGD(1.5, 0.3, 1e-3, max_epsilon=limit), **settings)
        fit(Federation({"a": made}), FederatedDataModule({"a": examples(40)}, batch_size=4), 2, *methods)
        return made

    def spent(made: Participant) -> float:
        return made.ledger.epsilon(1e-3)

    plan = Planned(lambda index: [Part(steps=2, trains=HEAD), Part(steps=1 + index)])
    limit = spent(run(None, plan))
    assert limit == pytest.approx(spent(run(None, step_budget=3)), rel=0.2)
    assert spent(run(1.001 * limit, plan)) == limit
    assert spent(run(0.999 * limit, plan)) < limit  # Ends after the first round.
    with pytest.raises(PrivacyBudgetError, match=r"after the 300 steps of this round"):
        run(limit, Planned(lambda _: [Part(steps=300)]))


def test_private_steps_clip_and_tell_of_what_is_trained_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    noised: list[list[int]] = []

    def without_noise(found: list[Tensor], **_: Any) -> list[Tensor]:
        noised.append([one[0].numel() for one in found])
        return [one.sum(0) for one in found]

    monkeypatch.setattr("hetfed_lightning.local_training.dpsgd_steps.private_gradients", without_noise)
    made = tiny_participant(privacy=DPSGD(1.5, 0.3, 1e-3))
    start = state_of(made.backbone)
    fit(Federation({"a": made}), FederatedDataModule({"a": examples(8)}, batch_size=8), 1, Planned(
        lambda _: [Part(steps=1, trains=HEAD)]))  # fmt: skip
    assert noised == [[15, 3]]
    assert equal(state_of(made.backbone), start)


# Refused


def both(_: int) -> list[Part]:
    return [Part(epochs=1)]


class ByHand(Participant):
    """Steps its optimizer itself."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 5), nn.Linear(5, 3))
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (lambda _: Part(epochs=1), r"participant 'a', round 0: Planned\.plan for the moment 'local': expected Parts"),
        (lambda _: [1], r"expected Parts in a list, got \[1\]\. Return \[Part\(epochs=1\)\]"),
        (
            lambda _: [Part(epochs=1, trains=("tail",))],
            r"trains=\.\.\.\): 'tail' matches none of its keys.*backbone, head",
        ),
        (lambda _: [Part(epochs=1, trains=("head", "!head"))], "leaves nothing to train"),
        (lambda _: [Part(epochs=1, on="public")], "steps on public data, and Planned has no example_loss"),
        (lambda _: [Part(on="both")], "steps on public data, and Planned has no example_loss"),
    ],
)
def test_plans_that_cannot_be_followed_are_refused_before_training(plan: Any, message: str) -> None:
    federation = tiny_federation()
    start = state_of(federation)
    with pytest.raises(PlanError, match=message):
        fit(federation, tiny_data(), 1, Planned(plan))
    assert equal(state_of(federation), start)


def test_a_plan_that_turns_bad_is_refused_in_its_round() -> None:
    with pytest.raises(PlanError, match="participant 'a', round 1: Planned"):
        fit(tiny_federation(), tiny_data(), 3, Planned(lambda index: [Part(steps=1)] if index == 0 else [None]))  # type: ignore[list-item]


def test_one_method_alone_may_plan_a_participants_local_steps() -> None:
    class Other(Planned):
        pass

    with pytest.raises(PlanError, match="participant 'b', round 0: Planned and Other both plan its local work"):
        fit(tiny_federation(), tiny_data(), 1, Planned({"a": both, "b": both}), Other({"b": both}))
    fit(tiny_federation(), tiny_data(), 1, Planned({"a": both}), Other({"b": both}))


def test_who_steps_by_itself_can_be_given_lengths_alone() -> None:
    with pytest.raises(PlanError, match=r"participant 'a'.*it steps its optimizers itself"):
        fit(Federation({"a": ByHand()}), tiny_data("a"), 1, Planned(lambda _: [Part(steps=1, trains=HEAD)]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected one of epochs and steps, got epochs=None, steps=None"),
        ({"epochs": 1, "steps": 1}, "expected one of epochs and steps"),
        ({"steps": -1}, r"Part\(steps=\.\.\.\): expected an integer of at least 0, got -1"),
        ({"epochs": True}, "expected an integer of at least 0, got True"),
        ({"epochs": 1, "on": "mine"}, "expected 'own', 'public' or 'both', got 'mine'"),
        ({"epochs": 1, "trains": ()}, "expected at least one pattern"),
    ],
)
def test_parts_that_are_none_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Part(**settings)


def test_parts_stand_one_after_another() -> None:
    found = spans([Part(epochs=1), Part(steps=0), Part(steps=3, trains="head"), Part(epochs=2)], 4, 9)
    assert [(one.index, one.start, one.stop) for one in found] == [(0, 0, 4), (2, 4, 7), (3, 7, 9)]
    assert found[1].part.trains == ("head",)
    assert math.isclose(sum(one.stop - one.start for one in found), 9)
