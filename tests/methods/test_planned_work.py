"""Planned steps beside the local ones, against loops by hand: after a result, of newcomers, after the last round."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import BackboneAveraging, Federation, Participant
from hetfed_lightning.methods.plans import Part, PlanError
from tests.federations import (
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
from tests.methods.own_methods import Prototypes
from tests.methods.planned import HEAD, Planned

ROUNDS = 3
MOMENTUM = sgd(momentum=0.9, weight_decay=0.01)


def close(one: Any, other: Any) -> None:
    """Equal but for rounding in float64."""
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def passes(model: Participant, optimizer: torch.optim.Optimizer, place: int, count: int, still: Any = None) -> None:
    """Full-batch steps, what is still without a gradient."""
    data = examples(12 + 4 * place, seed=place)
    for _ in range(count):
        model.zero_grad()
        assert isinstance(data.inputs, Tensor)
        assert data.targets is not None
        F.cross_entropy(model.head(model.backbone(data.inputs.double())), data.targets).backward()
        if still is not None:
            for one in still.parameters():
                one.grad = None
        optimizer.step()


def by_hand(received: int, last: int) -> dict[str, dict[str, Tensor]]:
    """A local epoch, the mean of the backbones, epochs of the head alone; after the last round epochs of everything."""
    models = [tiny_participant().double() for _ in "abc"]
    optimizers = [MOMENTUM(model.parameters()) for model in models]
    for _ in range(ROUNDS):
        for place, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            passes(model, optimizer, place, 1)
        with torch.no_grad():
            for same in zip(*(model.backbone.parameters() for model in models), strict=True):
                mean = torch.stack([one.detach() for one in same]).mean(0)
                for one in same:
                    one.copy_(mean)
        for place, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            passes(model, optimizer, place, received, model.backbone)
    for place, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
        passes(model, optimizer, place, last)
    return {name: dict(model.state_dict()) for name, model in zip("abc", models, strict=True)}


def averaged(*methods: Planned, engine: Any = "sequential", **settings: Any) -> Federation:
    federation = Federation({name: tiny_participant(optimizer=MOMENTUM) for name in "abc"}, engine=engine)
    averaging = BackboneAveraging(weighting="uniform")
    fit(federation, tiny_data(batch_size=100), ROUNDS, averaging, *methods, precision="64-true", **settings)
    return federation


def planned(moment: str, *parts: Part) -> Planned:
    made = Planned(lambda _: parts, moment)
    made.name = moment
    return made


@pytest.mark.parametrize("engine", ["sequential", "batched"])
@pytest.mark.parametrize(("received", "last"), [(2, 0), (0, 3), (1, 1)])
def test_heads_that_follow_what_was_received_and_a_last_tuning_equal_a_loop_by_hand(
    engine: Any, received: int, last: int
) -> None:
    federation = averaged(
        planned("received", Part(epochs=received, trains=HEAD)), planned("last", Part(epochs=last)), engine=engine
    )
    for name, state in by_hand(received, last).items():
        close(dict(federation[name].state_dict()), state)


def test_a_last_tuning_comes_before_the_validation() -> None:
    federation = tiny_federation()
    start = state_of(federation["a"].backbone)
    tuning = planned("last", Part(epochs=200))
    run = fit(federation, tiny_data(), 1, planned("local", Part(steps=0)), tuning)
    assert not equal(state_of(federation["a"].backbone), start)
    assert run.validate(federation, datamodule=tiny_data(), verbose=False)[0]["val_loss/a"] == pytest.approx(
        float(run.callback_metrics["val_loss/a"])
    )


def test_a_newcomer_takes_its_steps_before_its_first_local_one() -> None:
    settings = {"a": {}, "b": {"joins_at": 1}}
    federation = Federation({name: tiny_participant(optimizer=sgd(), **own) for name, own in settings.items()})
    seen = Snapshots()
    joined = planned("joined", Part(epochs=2, trains=HEAD))
    still = planned("local", Part(steps=0))
    fit(federation, tiny_data("ab", batch_size=100), 2, joined, still, seen, precision="64-true")
    model = tiny_participant().double()
    passes(model, sgd()(model.parameters()), 1, 2, model.backbone)
    close(seen.ends[1]["b"], dict(model.state_dict()))
    assert equal(seen.ends[1]["a"], seen.starts[0]["a"])


@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_steps_are_foreseen(participation: float) -> None:
    class Foreseeing(Participant):
        foreseen: Any = None

        def configure_optimizers(self) -> Any:
            self.foreseen = self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    made = {name: Foreseeing(nn.Linear(4, 5), nn.Linear(5, 3), optimizer=sgd()) for name in "abc"}
    made["b"].joins_at = 1
    federation = Federation(dict(made), participation=participation)
    methods = [planned("received", Part(steps=2)), planned("last", Part(epochs=1)), planned("joined", Part(steps=5))]
    fit(federation, tiny_data(), ROUNDS, BackboneAveraging(), *methods)
    assert {name: federation.local[name].progress for name in made} == {
        name: one.foreseen for name, one in made.items()
    }


def test_who_was_lent_what_it_has_is_tuned_alone() -> None:
    """Not everyone is sampled, so that the shared backbone is held once: a last tuning must not write into it."""
    federation = tiny_federation("abcd", participation=0.5)
    data = tiny_data("abcd")
    fit(federation, data, 2, BackboneAveraging(), Planned({"a": lambda _: [Part(epochs=1)]}, "last"))
    plain = tiny_federation("abcd", participation=0.5)
    fit(plain, data, 2, BackboneAveraging())
    for name in "bcd":
        assert equal(state_of(federation[name]), state_of(plain[name])), name
    assert not equal(state_of(federation["a"].backbone), state_of(plain["a"].backbone))


def test_a_run_resumed_between_rounds_equals_one_that_was_never_stopped(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": tmp_path}

    def run(folder: str, **more: Any) -> Federation:
        federation = tiny_federation("ab", participant={"optimizer": lambda p: torch.optim.Adam(p, lr=0.01)})
        methods = [planned("received", Part(steps=2, trains=HEAD)), planned("last", Part(steps=3))]
        saving = ModelCheckpoint(tmp_path / folder, "{epoch}-{step}", save_top_k=-1, every_n_train_steps=2)
        fit(federation, tiny_data("ab"), 2, BackboneAveraging(), *methods, saving, **settings, **more)
        return federation

    whole = run("whole")
    paths = sorted(tmp_path.glob("whole/*.ckpt"))
    assert len(paths) == 4
    for path in paths:
        assert equal(state_of(run(path.stem, ckpt_path=path)), state_of(whole)), path.name


def test_a_newcomers_steps_have_the_losses_of_a_run_resumed_before_its_round(tmp_path: Path) -> None:
    def run(folder: str, **more: Any) -> Federation:
        federation = tiny_federation("ab")
        federation["b"].joins_at = 1
        saving = ModelCheckpoint(tmp_path / folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        methods = [Prototypes(2.0), planned("joined", Part(steps=3)), saving]
        fit(federation, tiny_data("ab"), 2, *methods, enable_checkpointing=True, **more)
        return federation

    whole = run("whole")
    assert equal(state_of(run("rest", ckpt_path=tmp_path / "whole" / "epoch=0.ckpt")), state_of(whole))


def test_who_runs_away_is_left_out_by_name() -> None:
    federation = tiny_federation()
    away = Planned({"b": lambda _: [Part(steps=3, optimizer=sgd(1e30))]}, "received")
    run = fit(federation, tiny_data(), 1, away)
    assert run.callback_metrics["quarantined/b"] == 1
    assert all(bool(one.isfinite().all()) for one in state_of(federation).values())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(steps=1, on="public"), "steps on public data, and Planned has no example_loss"),
        (Part(steps=1, trains=("tail",)), "'tail' matches none of its keys"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_training(part: Part, message: str) -> None:
    federation = tiny_federation()
    start = state_of(federation)
    with pytest.raises(PlanError, match=message):
        fit(federation, tiny_data(), 1, planned("received", part))
    assert equal(state_of(federation), start)
