"""Participants that override what a LightningModule may override, several of them in one federation."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedDataModule, Federation, Participant
from hetfed_lightning.federation.forwarded_hooks import NEVER_CALLED
from tests.federations import equal, examples, fit, sgd, state_of, tiny_data, tiny_federation, tiny_participant, trainer


class OwnStep(Participant):
    """Logs by hand, with and without the usual settings, and returns a dictionary."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, target = batch
        loss = F.cross_entropy(self(inputs), target)
        self.log("train_loss", loss)
        self.log("margin", torch.tensor(2.0), prog_bar=True)
        self.log_dict({"first": 1.0, "batch": float(batch_idx)})
        return {"loss": loss, "extra": inputs}


class OwnForward(Participant):
    """Two passes through the backbone."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.backbone(inputs) + self.backbone(-inputs))
        return outputs


class OwnOptimizer(Participant):
    """Two groups with rates of their own, and a schedule, as two lists."""

    def configure_optimizers(self) -> Any:
        groups = [{"params": self.backbone.parameters(), "lr": 0.1}, {"params": self.head.parameters(), "lr": 0.2}]
        optimizer = torch.optim.SGD(groups)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class ByHand(Participant):
    """Two optimizers, stepped by hand."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.backbone.parameters(), lr=0.1), torch.optim.Adam(self.head.parameters(), lr=0.01)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers = self.optimizers()
        assert len(optimizers) == 2
        inputs, target = batch
        for optimizer in optimizers:
            loss = F.cross_entropy(self(inputs), target)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("train_loss", loss)


class Hooked(Participant):
    """Counts the hooks that it hears."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.heard: list[str] = []

    def prepare_data(self) -> None:
        self.heard.append("prepare")

    def setup(self, stage: str) -> None:
        self.heard.append(stage + " setup")

    def teardown(self, stage: str) -> None:
        self.heard.append(stage + " teardown")

    def on_fit_end(self) -> None:
        self.heard.append("/fit")

    def on_fit_start(self) -> None:
        self.heard.append("fit")

    def on_train_start(self) -> None:
        self.heard.append("train")

    def on_train_epoch_start(self) -> None:
        self.heard.append("epoch")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.heard.append("batch")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.heard.append("/batch")

    def on_before_backward(self, loss: Tensor) -> None:
        self.heard.append("before")

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.heard.append("backward")
        super().backward(loss, *args, **kwargs)

    def on_after_backward(self) -> None:
        assert any(parameter.grad is not None for parameter in self.parameters())
        self.heard.append("after")

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.heard.append("zero")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        assert any(parameter.grad is not None for parameter in self.parameters())
        self.heard.append("step")

    def on_validation_epoch_end(self) -> None:
        self.heard.append("/validation")

    def on_train_epoch_end(self) -> None:
        self.heard.append("/epoch")

    def on_train_end(self) -> None:
        self.heard.append("/train")


def made(kind: type[Participant], seed: int = 0, **settings: Any) -> Participant:
    torch.manual_seed(seed)
    return kind(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3), **({"optimizer": sgd()} | settings))


KINDS = [OwnStep, OwnForward, OwnOptimizer, ByHand, Hooked]


def test_all_kinds_train_side_by_side_as_they_do_alone() -> None:
    names = "abcde"
    together = Federation({name: made(kind) for name, kind in zip(names, KINDS, strict=True)})
    trained = fit(together, tiny_data(names), 2)
    assert all(f"train_loss/{name}" in trained.callback_metrics for name in names)
    for index, (name, kind) in enumerate(zip(names, KINDS, strict=True)):
        alone = Federation({name: made(kind)})
        fit(alone, FederatedDataModule({name: examples(12 + 4 * index, seed=index)}, batch_size=4), 2)
        assert equal(state_of(alone[name]), state_of(together[name]))


def test_all_kinds_share_a_backbone() -> None:
    names = "abcde"
    federation = Federation({name: made(kind) for name, kind in zip(names, KINDS, strict=True)})
    fit(federation, tiny_data(names), 1, BackboneAveraging())
    assert all(local.landed > 0 for local in federation.local.values())
    backbones = [state_of(member)["backbone.0.weight"] for member in federation.members().values()]
    assert all(torch.equal(one, backbones[0]) for one in backbones)


def test_what_is_logged_lands_under_the_participants_name() -> None:
    federation = Federation({"a": made(OwnStep), "b": made(OwnStep, 1)})
    metrics = fit(federation, tiny_data("ab"), 1).callback_metrics
    # "a" has 3 batches, "b" 4: means over the round.
    assert metrics["margin/a"] == 2
    assert metrics["first/a"] == 1
    assert metrics["batch/a"] == pytest.approx(1.0)
    assert metrics["batch/b"] == pytest.approx(1.5)
    assert "margin" not in metrics


def test_groups_and_schedules_of_two_lists() -> None:
    federation = Federation({"a": made(OwnOptimizer), "b": made(OwnOptimizer)})
    fit(federation, tiny_data("ab"), 2)
    groups = federation.local["a"].optimizers[0].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.1 / 4, 0.2 / 4])
    assert federation["a"].lr_schedulers().get_last_lr() == pytest.approx([0.1 / 4, 0.2 / 4])


def test_own_optimizers_are_ones_own() -> None:
    federation = Federation({"a": made(ByHand), "b": made(OwnStep)})
    fit(federation, tiny_data("ab"), 1)
    assert [type(optimizer).__name__ for optimizer in federation["a"].optimizers()] == ["SGD", "Adam"]
    assert type(federation["b"].optimizers()).__name__ == "SGD"
    assert federation["a"].lr_schedulers() is None


def test_hooks_are_heard_in_order() -> None:
    federation = Federation({"a": made(Hooked)})
    fit(federation, tiny_data("a", count=4), 1)
    member = federation["a"]
    assert isinstance(member, Hooked)
    step = ["batch", "before", "backward", "after", "step", "zero", "/batch"]
    before, after = ["prepare", "fit setup", "fit", "train", "epoch"], ["/validation", "/epoch", "/train", "/fit"]
    assert member.heard == [*before, *step, *after, "fit teardown"]


class Evaluated(Participant):
    """Counts the hooks that it hears of evaluation and prediction."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.heard: list[str] = []


def listening(hook: str) -> Any:
    def listen(self: Evaluated, *args: Any) -> None:
        self.heard.append(hook)

    return listen


STAGES = ("validation", "test", "predict")
for hook in [f"on_{stage}_{when}" for stage in STAGES for when in ("start", "epoch_start", "epoch_end", "end")]:
    setattr(Evaluated, hook, listening(hook))
for hook in [f"on_{stage}_batch_{when}" for stage in STAGES for when in ("start", "end")]:
    setattr(Evaluated, hook, listening(hook))


@pytest.mark.parametrize("stage", STAGES)
def test_hooks_of_evaluation_are_heard_in_order(stage: str) -> None:
    member = made(Evaluated)
    assert isinstance(member, Evaluated)
    sets = {"val": {"a": examples(6)}, "test": {"a": examples(6)}}
    data = FederatedDataModule({"a": examples(8)}, **sets, eval_batch_size=4)  # type: ignore[arg-type]
    run = {"validation": "validate"}.get(stage, stage)
    settings = {} if stage == "predict" else {"verbose": False}
    getattr(trainer(), run)(Federation({"a": member}), datamodule=data, **settings)
    whens = ("start", "epoch_start", *("batch_start", "batch_end") * 2, "epoch_end", "end")
    assert member.heard == [f"on_{stage}_{when}" for when in whens]


@pytest.mark.parametrize("hook", NEVER_CALLED)
def test_a_hook_that_would_never_be_called_is_refused(hook: str) -> None:
    kind = type("Deaf", (Participant,), {hook: lambda self, *args, **settings: None})
    federation = Federation({"a": made(Participant), "b": made(kind)})
    with pytest.raises(ValueError, match=rf"Participant 'b': Deaf.{hook} would never be called in a federation; \w+"):
        fit(federation, tiny_data("ab"), 1)


def test_what_a_participant_adds_to_a_checkpoint_comes_back_to_it(tmp_path: Path) -> None:
    class Remembering(Participant):
        seen = 0

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.seen += 1

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["seen"] = self.seen

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.seen = checkpoint["seen"]

    def federation() -> Federation:
        return Federation({"a": made(Remembering), "b": made(Participant), "c": made(Remembering)})

    path = tmp_path / "last.ckpt"
    fit(federation(), tiny_data(), 1).save_checkpoint(path)
    again = federation()
    fit(again, tiny_data(), 2, ckpt_path=path)
    # 3 and 5 batches a round.
    assert [getattr(again[name], "seen", None) for name in "abc"] == [6, None, 10]
    older = torch.load(path, weights_only=True)
    del older["federation"]["own"]
    torch.save(older, tmp_path / "older.ckpt")
    fit(federation(), tiny_data(), 2, ckpt_path=tmp_path / "older.ckpt")  # of before participants could add to it
    alone = Remembering.load_from_checkpoint(
        path, participant="c", backbone=nn.Sequential(nn.Linear(4, 5), nn.ReLU()), head=nn.Linear(5, 3)
    )
    assert alone.seen == 5


def test_several_optimizers_ask_for_stepping_by_hand() -> None:
    member = made(ByHand)
    member.automatic_optimization = True
    with pytest.raises(ValueError, match="participant 'a': configure_optimizers returned 2 optimizers; set"):
        fit(Federation({"a": member}), tiny_data("a"), 1)


def test_none_skips_a_batch() -> None:
    class Picky(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) if batch_idx else None

    federation = Federation({"a": made(Picky)})
    fit(federation, tiny_data("a"), 1)
    assert federation.local["a"].landed == 2


@pytest.mark.parametrize("engine", ["sequential", "batched"])
def test_no_step_asks_the_device_for_a_number(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = tiny_federation(engine=engine)
    asked: list[str] = []
    inside = False
    step = Federation.training_step

    def watched(self: Federation, batch: Any, batch_idx: int) -> None:
        nonlocal inside
        inside = batch_idx > 0 or engine == "sequential"  # At its first batch a fleet's engine is checked.
        step(self, batch, batch_idx)
        inside = False

    for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
        original = getattr(Tensor, name)

        def noted(self: Tensor, *args: Any, _name: str = name, _original: Any = original) -> Any:
            if inside:
                asked.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(Tensor, name, noted)
    monkeypatch.setattr(Federation, "training_step", watched)
    mixed = EnsembleDistillation(mode="mixed", start_round=0)
    fit(federation, tiny_data(), 1, BackboneAveraging(proximal=0.1), mixed)
    assert asked == []


# Alone, copied, saved


def test_a_participant_trains_alone_in_a_trainer() -> None:
    member = tiny_participant()
    before = state_of(member)
    data = DataLoader(examples(8), batch_size=4)
    alone = trainer(1)
    alone.fit(member, data, data)
    assert not equal(before, state_of(member))
    assert {"train_loss", "val_loss", "val_accuracy"} <= alone.callback_metrics.keys()


def test_copies_leave_the_federation_behind() -> None:
    federation = Federation({name: tiny_participant(optimizer=None) for name in "ab"})
    fit(federation, tiny_data("ab"), 1)
    for other in (copy.deepcopy(federation["a"]), pickle.loads(pickle.dumps(federation["b"]))):
        assert equal(state_of(other), state_of(federation[str(other.name)]))
        assert other.host is None
    assert federation["a"].host is federation


def test_one_participant_of_a_checkpoint(tmp_path: Path) -> None:
    federation = tiny_federation(student=tiny_participant(seed=9))
    trained = fit(federation, tiny_data(), 1, BackboneAveraging())
    path = tmp_path / "federation.ckpt"
    trained.save_checkpoint(path)
    for name in ("b", "student"):
        loaded = Participant.load_from_checkpoint(
            path, participant=name, backbone=nn.Sequential(nn.Linear(4, 5), nn.ReLU()), head=nn.Linear(5, 3)
        )
        assert equal(state_of(loaded), state_of(federation[name]))
    with pytest.raises(ValueError, match="has no participant 'x'; it has a, b, c, student"):
        Participant.load_from_checkpoint(path, participant="x", backbone=nn.Linear(4, 5))
    with pytest.raises(ValueError, match="name one of its participants, a, b, c, student"):
        Participant.load_from_checkpoint(path, backbone=nn.Linear(4, 5))


@pytest.mark.parametrize("name", ["global", "student", "keys", "a/b", "a.b", "-a", ""])
def test_unusable_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="participants: "):
        Federation({name: tiny_participant()})


def test_something_else_than_a_participant_is_refused() -> None:
    with pytest.raises(TypeError, match=r"participants\['a'\]: expected a Participant, got Linear"):
        Federation({"a": nn.Linear(1, 1)})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="expected at least one, got none"):
        Federation({})


def test_a_copy_made_inside_a_round_takes_nobodys_data_along() -> None:
    class Copies(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            assert pl_module.logbook.batch is not None
            self.made = copy.deepcopy(pl_module)

    copies = Copies()
    fit(tiny_federation(engine="sequential"), tiny_data(), 1, copies)
    assert copies.made.logbook.batch is None
    assert copies.made.adding == []
