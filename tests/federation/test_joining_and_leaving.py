"""Newcomers and what they take over, in a run and afterwards; participants who leave."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

import hetfed_lightning as hf
from hetfed_lightning import FederationView
from hetfed_lightning.data import Examples
from hetfed_lightning.participants.newcomer import inherited_state


def examples(seed: int, count: int = 24, classes: int = 2) -> Examples:
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return Examples(inputs, (inputs.sum(1) > 0).long() % classes)


def member(width: int = 4, classes: int = 2, **settings: Any) -> hf.Participant:
    backbone = nn.Sequential(nn.Linear(3, width), nn.Tanh())
    defaults: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.5)}
    return hf.Participant(backbone, nn.Linear(width, classes), **(defaults | settings))


def data(*names: str, public: bool = False) -> hf.FederatedDataModule:
    sets = {name: examples(place) for place, name in enumerate(names)}
    return hf.FederatedDataModule(
        sets, {name: examples(100 + place) for place, name in enumerate(names)},
        public=Examples(examples(50, 40).inputs) if public else None, batch_size=8,
    )  # fmt: skip


class Recorder(hf.FederatedCallback):
    """What everyone's weights are as each round opens, after newcomers have been received, and as it ends."""

    def __init__(self) -> None:
        self.opened: list[dict[str, dict[str, Tensor]]] = []
        self.ended: list[dict[str, dict[str, Tensor]]] = []
        self.active: list[list[str]] = []

    def on_round_start(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.opened.append(states(federation))
        self.active.append(federation.active_names(round_index))

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.ended.append(states(federation))


def states(federation: FederationView) -> dict[str, dict[str, Tensor]]:
    return {name: deepcopy(one.view_of()) for name, one in federation.members().items()}


def fit(federation: hf.Federation, module: hf.FederatedDataModule, rounds: int, *callbacks: Any) -> L.Trainer:
    trainer = L.Trainer(
        max_epochs=rounds, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(federation, datamodule=module)
    return trainer


WEIGHT = "backbone.0.weight"


def test_a_newcomer_holds_what_it_received_still_and_then_tunes_it() -> None:
    L.seed_everything(0, verbose=False)
    newcomer = member(joins_at=1, transfer=hf.Transfer(frozen_rounds=2))
    recorder = Recorder()
    averaging = hf.BackboneAveraging(weighting={"a": 1.0, "b": 1.0, "new": 0.0})
    federation = hf.Federation({"a": member(), "b": member(), "new": newcomer})
    locals_: list[dict[str, dict[str, Tensor]]] = []
    fit(federation, data("a", "b", "new"), 4, averaging, recorder, Locals(locals_))
    assert recorder.active == [["a", "b"], *[["a", "b", "new"]] * 3]
    assert torch.equal(recorder.opened[1]["new"][WEIGHT], recorder.opened[1]["a"][WEIGHT])
    still = [torch.equal(before["new"][WEIGHT], recorder.opened[r]["new"][WEIGHT]) for r, before in enumerate(locals_)]
    assert still == [True, True, True, False], "it has not joined, twice frozen, then it trains"
    heads = [torch.equal(before["new"]["head.weight"], recorder.opened[r]["new"]["head.weight"])
             for r, before in enumerate(locals_)]  # fmt: skip
    assert heads == [True, False, False, False]
    assert all(parameter.requires_grad for parameter in newcomer.parameters())


class Locals(hf.FederatedCallback):
    """Everyone's weights after the local steps, before anybody averages."""

    phase = hf.Phase.GUARD

    def __init__(self, found: list[dict[str, dict[str, Tensor]]]) -> None:
        self.found = found

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self.found.append(states(federation))


def test_what_the_maker_froze_stays_frozen() -> None:
    newcomer = member(joins_at=1, transfer=hf.Transfer(frozen_rounds=1))
    newcomer.backbone[0].bias.requires_grad_(False)  # type: ignore[index]
    fit(hf.Federation({"a": member(), "new": newcomer}), data("a", "new"), 3)
    assert [key for key, one in newcomer.named_parameters() if not one.requires_grad] == ["backbone.0.bias"]


def test_what_was_received_is_tuned_at_a_lower_rate() -> None:
    # One step of SGD at rate 1/2 and ratio 1/10: the same gradients, so a tenth of the plain step.
    steps = []
    for ratio in (1.0, 0.1):
        L.seed_everything(3, verbose=False)
        one = member(transfer=hf.Transfer(learning_rate_ratio=ratio), step_budget=1)
        before = deepcopy(one.view_of())
        fit(hf.Federation({"a": one}), data("a"), 1)
        steps.append({key: tensor - before[key] for key, tensor in one.view_of().items()})
    torch.testing.assert_close(steps[1][WEIGHT], steps[0][WEIGHT] / 10)
    torch.testing.assert_close(steps[1]["head.weight"], steps[0]["head.weight"])


def test_who_leaves_keeps_what_it_had_and_the_others_go_on_without_it() -> None:
    recorder = Recorder()
    federation = hf.Federation({"a": member(), "b": member(), "gone": member(leaves_at=2)})
    trainer = fit(federation, data("a", "b", "gone"), 4, hf.BackboneAveraging(), recorder)
    assert recorder.active == [["a", "b", "gone"]] * 2 + [["a", "b"]] * 2
    last = recorder.ended[1]["gone"]
    assert all(torch.equal(tensor, last[key]) for key, tensor in federation["gone"].view_of().items())
    assert torch.equal(recorder.ended[3]["a"][WEIGHT], recorder.ended[3]["b"][WEIGHT])
    assert not torch.equal(recorder.ended[3]["a"][WEIGHT], last[WEIGHT])
    assert "val_accuracy/a" in trainer.callback_metrics


def test_who_leaves_while_it_borrows_keeps_what_it_had() -> None:
    recorder = Recorder()
    names = ("a", "b", "c", "gone")
    members = {name: member(leaves_at=2 if name == "gone" else None) for name in names}
    federation = hf.Federation(members, participation=0.5, seed=1)
    fit(federation, data(*names), 4, hf.BackboneAveraging(), recorder)
    last = recorder.opened[2]["gone"]
    assert all(torch.equal(tensor, last[key]) for key, tensor in federation["gone"].view_of().items())
    assert not torch.equal(federation["a"].view_of()[WEIGHT], last[WEIGHT])


def test_a_round_without_anybody_is_refused() -> None:
    members = {"a": member(leaves_at=2), "b": member(joins_at=3)}
    with pytest.raises(ValueError, match=r"Round 2 would have no participant \(a from 0 until before 2, b from 3"):
        fit(hf.Federation(members), data("a", "b"), 5)
    with pytest.raises(ValueError, match="leaves_at: expected an integer of at least 3, got 2"):
        member(joins_at=2, leaves_at=2)


def test_a_newcomer_of_another_architecture_learns_from_who_is_there() -> None:
    L.seed_everything(1, verbose=False)
    newcomer = member(width=7, joins_at=1, transfer=hf.Transfer(distillation_epochs=60))
    untaught = deepcopy(newcomer)
    federation = hf.Federation({"a": member(), "b": member(), "new": newcomer})
    public = examples(50, 40)
    before: list[Tensor] = []

    class Look(hf.FederatedCallback):
        def on_join(self, trainer: L.Trainer, federation: FederationView, names: Any, round_index: int) -> None:
            before.extend(federation[name].predict(public.inputs).argmax(1) for name in ("a", "new"))

    distillation = hf.EnsembleDistillation(start_round=99)
    fit(federation, data("a", "b", "new", public=True), 2, distillation, hf.BackboneAveraging(), Look())
    # Look comes after the distillation: monitoring is the last phase.
    taught, teacher = before[1], before[0]
    alone = untaught.predict(public.inputs).argmax(1)
    assert (alone == teacher).float().mean() < 0.7
    assert (taught == teacher).float().mean() > 0.9


# Joining a federation that was trained before


def trained(names: tuple[str, ...] = ("a", "b"), **settings: Any) -> hf.Federation:
    L.seed_everything(2, verbose=False)
    federation = hf.Federation({name: member(**settings) for name in names})
    fit(federation, data(*names), 3, hf.BackboneAveraging())
    return federation


def test_it_begins_with_the_mean_of_what_is_shared_there() -> None:
    source = trained()
    newcomer = member(classes=2, transfer=hf.Transfer(frozen_rounds=1))
    recorder = Recorder()
    fit(hf.Federation({"new": newcomer}), data("new"), 2, hf.Inheritance(source), recorder)
    assert torch.equal(recorder.opened[0]["new"][WEIGHT], source["a"].view_of()[WEIGHT])
    assert torch.equal(recorder.opened[1]["new"][WEIGHT], source["a"].view_of()[WEIGHT])
    assert not torch.equal(recorder.ended[1]["new"][WEIGHT], source["a"].view_of()[WEIGHT])


def test_its_head_may_be_of_another_size() -> None:
    newcomer = hf.Participant(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 5))
    fit(hf.Federation({"new": newcomer}), data("new"), 1, hf.Inheritance(trained()))


def test_the_mean_by_hand_and_only_of_those_whose_shapes_are_all_its_own() -> None:
    first, second, wide = member(), member(), member(width=5)
    for one, value in ((first, 1.0), (second, 4.0)):
        for parameter in one.parameters():
            nn.init.constant_(parameter, value)
    state, kin = inherited_state(member(), {"a": first, "b": second, "wide": wide})
    assert kin == ["a", "b"]
    assert set(state) == {"backbone.0.weight", "backbone.0.bias"}
    assert all(bool((tensor == 2.5).all()) for tensor in state.values())
    assert inherited_state(member(width=6), {"a": first, "wide": wide}) == ({}, [])


@pytest.mark.parametrize("frozen", [0, 1], ids=["tuned", "frozen_afterwards"])
def test_a_new_architecture_is_taught_by_the_ensemble(frozen: int) -> None:
    source = trained()
    public = examples(50, 40)
    newcomer = member(width=6, transfer=hf.Transfer(frozen, distillation_epochs=120), step_budget=1,
                      optimizer=lambda p: torch.optim.Adam(p, lr=0.02))  # fmt: skip
    weights, untaught = states(source), deepcopy(newcomer.view_of())
    fit(hf.Federation({"new": newcomer}), data("new", public=True), 1, hf.Inheritance(source))
    assert not torch.equal(newcomer.view_of()[WEIGHT], untaught[WEIGHT]), "the lesson comes before the freezing"
    ensemble = sum(one.predict(public.inputs) for one in source.members().values())
    assert isinstance(ensemble, Tensor)
    agree = (newcomer.predict(public.inputs).argmax(1) == ensemble.argmax(1)).float().mean()
    assert agree > 0.9
    assert all(torch.equal(tensor, weights[name][key]) for name, one in states(source).items()
               for key, tensor in one.items())  # fmt: skip


def test_where_there_is_a_student_it_teaches_alone() -> None:
    source = trained()
    source.student = member(width=8)
    public = examples(50, 40)
    with torch.no_grad():
        source.student.head.weight.zero_()  # type: ignore[operator]
        source.student.head.bias.copy_(torch.tensor([9.0, -9.0]))  # type: ignore[operator]
    newcomer = member(width=6, transfer=hf.Transfer(distillation_epochs=40), step_budget=1,
                      optimizer=lambda p: torch.optim.Adam(p, lr=0.02))  # fmt: skip
    fit(hf.Federation({"new": newcomer}), data("new", public=True), 1, hf.Inheritance(source))
    assert bool((newcomer.predict(public.inputs).argmax(1) == 0).all())


@pytest.mark.parametrize(
    ("newcomer", "public", "message"),
    [
        (member(width=6), False, r"'new' can take over nothing: nobody of a, b shares all .*distillation_epochs"),
        (member(width=6, transfer=hf.Transfer(distillation_epochs=1)), False, "'new': .* needs a public set"),
        (
            member(classes=3, transfer=hf.Transfer(distillation_epochs=1)),
            True,
            r"'new' has 3 multiclass output\(s\), 'a' of the trained federation has 2 multiclass: .* weights alone",
        ),
        (
            hf.Participant(nn.Linear(3, 2), shared=("*",), transfer=hf.Transfer(frozen_rounds=1)),
            False,
            "'new': transfer.frozen_rounds=1 freezes what it shares, which is all",
        ),
    ],
)
def test_what_cannot_be_taken_over_is_refused_by_name(newcomer: hf.Participant, public: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(hf.Federation({"new": newcomer}), data("new", public=public), 1, hf.Inheritance(trained()))


@pytest.mark.parametrize(
    "settings",
    [{"frozen_rounds": -1}, {"learning_rate_ratio": 0.0}, {"distillation_epochs": 1.5}, {"temperature": 0.0}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"transfer.{next(iter(settings))}: expected"):
        hf.Transfer(**settings)


def test_a_run_resumes_bit_exactly_while_somebody_is_frozen_and_after_somebody_left(tmp_path: Path) -> None:
    def made() -> hf.Federation:
        L.seed_everything(5, verbose=False)
        transfer = hf.Transfer(frozen_rounds=2, learning_rate_ratio=0.5)
        momentum: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9)}
        new = member(joins_at=1, transfer=transfer, **momentum)
        return hf.Federation({"a": member(**momentum), "gone": member(leaves_at=2, **momentum), "new": new})

    module, whole, halved = data("a", "gone", "new"), made(), made()
    fit(whole, module, 5, hf.BackboneAveraging())
    trainer = fit(halved, data("a", "gone", "new"), 2, hf.BackboneAveraging())
    trainer.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    resumed = made()
    trainer = L.Trainer(
        max_epochs=5, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[hf.BackboneAveraging()],
    )  # fmt: skip
    trainer.fit(resumed, datamodule=data("a", "gone", "new"), ckpt_path=tmp_path / "half.ckpt")
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key
