"""DP-SGD: gradients by hand and by law, the account, what is refused."""

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import dp_accounting
import lightning as L
import pytest
import torch
from dp_accounting import pld
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedDataModule,
    Federation,
    FederationView,
    MulticlassTask,
    Participant,
    PrivateAveraging,
    RunRecord,
)
from hetfed_lightning.data import Examples
from hetfed_lightning.distillation import ClassPriorWeighted
from hetfed_lightning.federation.membership import with_member, without_member
from hetfed_lightning.layers import Standardise
from hetfed_lightning.local_training.dpsgd_steps import PrivacyBudgetError, PrivateSteps
from hetfed_lightning.privacy import DPSGD, private_gradients, private_noise
from tests.federations import equal, examples, fit, sgd, state_of, tiny_data, tiny_federation, tiny_participant
from tests.networks import compiled_by_hand
from tests.privacy.closed_forms import gaussian_epsilon

pytestmark = pytest.mark.promise("private")

PRIVATE = DPSGD(noise_multiplier=1.5, max_grad_norm=0.3, delta=1e-3)


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.float64)


def alone(participant: Participant, data: Examples | None = None, *, batch_size: int = 4) -> tuple[Any, Any]:
    """A federation of one, and its data."""
    return Federation({"a": participant}), FederatedDataModule(
        {"a": examples(12) if data is None else data}, batch_size=batch_size
    )


# Clipping and noise


def test_clipped_by_hand() -> None:
    # Of norm 5, clipped to (0.6, 0.8) over both parameters together, and of norm 0.5; over 4 expected examples.
    one, other = torch.tensor([[3.0], [0.3]]), torch.tensor([4.0, 0.4])
    found = private_gradients([one, other], max_norm=1.0, noise_multiplier=1.0, expected=4, noise=zeros)
    torch.testing.assert_close(found[0], torch.tensor([0.9 / 4]), rtol=1e-5, atol=0)
    torch.testing.assert_close(found[1], torch.tensor(1.2 / 4), rtol=1e-5, atol=0)


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1e-6, 1.0, 1e6, math.inf, math.nan]))
def test_one_example_moves_the_sum_by_the_norm_at_most(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    others = [torch.randn(5, 3, 2, generator=generator), torch.randn(5, 3, generator=generator)]
    one = [scale * torch.randn(1, 3, 2, generator=generator), scale * torch.randn(1, 3, generator=generator)]
    settings: dict[str, Any] = {"max_norm": 0.7, "noise_multiplier": 1.0, "expected": 1.0, "noise": zeros}
    without = private_gradients(others, **settings)
    moved = private_gradients([torch.cat(pair) for pair in zip(others, one, strict=True)], **settings)
    change = torch.cat([(more - less).flatten() for more, less in zip(moved, without, strict=True)])
    assert float(change.norm()) <= 0.7 + 1e-5  # Sums of float32 are rounded.


@pytest.mark.parametrize("count", [0, 3])
def test_the_noise_has_the_multiplier_asked_for(count: int) -> None:
    gradients = [torch.zeros(count, 200, 100), torch.zeros(count)]
    found = private_gradients(gradients, max_norm=0.5, noise_multiplier=2.0, expected=8, noise=private_noise)
    assert float(found[0].std()) * 8 / 0.5 == pytest.approx(2.0, rel=0.03)
    assert found[1].shape == ()


# A participant's steps


def clipped_step(participant: Participant, data: Examples, lr: float, bound: float) -> dict[str, Tensor]:
    """The weights after a step, worked out example by example without Opacus."""
    parameters = dict(participant.named_parameters())
    totals = {key: torch.zeros_like(parameter) for key, parameter in parameters.items()}
    for place in range(len(data)):
        inputs, target = data.batch(torch.tensor([place]))
        assert target is not None
        loss = nn.functional.cross_entropy(participant(inputs), target)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        norm = torch.stack([one.square().sum() for one in gradients]).sum().sqrt()
        for key, gradient in zip(parameters, gradients, strict=True):
            totals[key] += gradient * min(1.0, bound / float(norm))
    return {key: (parameter - lr * totals[key] / len(data)).detach() for key, parameter in parameters.items()}


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {
        "linear": nn.Sequential(nn.Linear(4, 5), nn.ReLU()),
        "layer norm": nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh()),
        "convolution": nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.Flatten(),
                                     nn.Linear(4, 5)),
    }  # fmt: skip


@pytest.mark.parametrize("bound", [1e-3, 0.5, 1e3])
@pytest.mark.parametrize("kind", ["linear", "layer norm", "convolution"])
def test_a_step_is_what_each_example_alone_gives(kind: str, bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivateSteps, "noise", staticmethod(zeros))
    data = examples(6)
    participant = Participant(
        layers()[kind], nn.Linear(5, 3), optimizer=sgd(1.0), privacy=DPSGD(1.0, bound, 1e-3)
    )  # fmt: skip
    expected = clipped_step(participant, data, 1.0, bound)
    fit(*alone(participant, data, batch_size=6), 1)  # With probability 1 each example is in the batch.
    torch.testing.assert_close(
        {key: parameter.detach() for key, parameter in participant.named_parameters()}, expected, rtol=1e-4, atol=1e-6
    )


def test_batches_vary_and_every_step_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    collected = PrivateSteps.make_private

    def counting(self: PrivateSteps, parameters: Any) -> None:
        sizes.append(len(self._collecting.of(parameters)[0]))
        collected(self, parameters)

    monkeypatch.setattr(PrivateSteps, "make_private", counting)
    participant = tiny_participant(privacy=PRIVATE, local_epochs=2)
    federation, data = alone(participant, examples(30), batch_size=1)
    fit(federation, data, 1)
    assert len(sizes) == 2 * 30
    # Empty with probability .36, of two or more with .26: of 60 batches hardly ever fewer than 5.
    assert sizes.count(0) > 5
    assert sum(size > 1 for size in sizes) > 2
    assert participant.ledger.state() == [[1 / 30, 1.5, 60]]


def test_no_seed_repeats_it() -> None:
    ends = []
    for _ in range(2):
        participant = tiny_participant(privacy=PRIVATE)
        fit(*alone(participant), 1)
        ends.append(state_of(participant))
    assert not equal(*ends)


def test_nothing_of_it_stays_in_the_modules() -> None:
    participant, plain = tiny_participant(privacy=PRIVATE), tiny_participant()
    fit(*alone(participant), 1)
    assert participant.state_dict().keys() == plain.state_dict().keys()
    assert not any(hasattr(parameter, "grad_sample") for parameter in participant.parameters())
    for module in participant.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert not {"activations", "max_batch_len", "autograd_grad_sample_hooks"} & vars(module).keys()
    for made in (copy.deepcopy(participant), pickle.loads(pickle.dumps(participant.backbone))):
        assert made.training


def test_it_averages_distils_and_trains_beside_others_and_in_no_fleet() -> None:
    members = {"a": tiny_participant(privacy=PRIVATE), "b": tiny_participant(seed=1), "c": tiny_participant(seed=2)}
    federation = Federation(members, engine="batched")
    fit(federation, tiny_data(), 2, EnsembleDistillation(), BackboneAveraging())
    assert not any("a" in fleet.places for fleet in federation.fleets._fleets.values())
    # 12 examples in batches of 4: three steps a round. Steps on the public set tell nothing of them.
    assert members["a"].ledger.state() == [[1 / 3, 1.5, 6]]
    assert equal({"w": members["a"].get_parameter("backbone.0.weight").detach()},
                 {"w": members["c"].get_parameter("backbone.0.weight").detach()})  # fmt: skip


def test_beside_private_averages() -> None:
    federation = tiny_federation(participant={"privacy": PRIVATE})
    averaging = PrivateAveraging(noise_multiplier=2.0, max_update_norm=0.5, delta=1e-3)
    made = fit(federation, tiny_data(), 1, averaging)
    assert {"federation/epsilon", "epsilon/a", "epsilon/b", "epsilon/c"} <= made.callback_metrics.keys()


# The account


def directly(probability: float, steps: int) -> float:
    accountant = pld.PLDAccountant()
    event = dp_accounting.PoissonSampledDpEvent(probability, dp_accounting.GaussianDpEvent(1.5))
    return float(accountant.compose(dp_accounting.SelfComposedDpEvent(event, steps)).get_epsilon(1e-3))


def test_epsilon_is_logged_and_is_that_of_dp_accounting(tmp_path: Path) -> None:
    participant, record = tiny_participant(privacy=PRIVATE), RunRecord(str(tmp_path))
    made = fit(*alone(participant), 3, record)
    ours, theirs = float(made.callback_metrics["epsilon/a"]), directly(1 / 3, 9)
    assert theirs - 1e-5 <= ours <= theirs + 1e-3
    assert record.record is not None
    assert record.record.history[-1]["values"]["epsilon/a"] == pytest.approx(ours)


@pytest.mark.parametrize("batches", [pytest.param(3, marks=pytest.mark.slow), 4])  # after a round, and inside one
def test_the_account_goes_on_after_a_checkpoint(batches: int, tmp_path: Path) -> None:
    def saving(name: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / name, "{step}", save_top_k=-1, every_n_train_steps=batches)

    fit(*alone(tiny_participant(privacy=PRIVATE)), 2, saving("one"), enable_checkpointing=True)
    again, path = tiny_participant(privacy=DPSGD(3.0, 0.3, 1e-3)), tmp_path / f"one/step={batches}.ckpt"
    fit(*alone(again), 3, saving("other"), enable_checkpointing=True, ckpt_path=path)
    assert again.ledger.state() == [[1 / 3, 1.5, batches], [1 / 3, 3.0, 9 - batches]]


def test_the_account_goes_with_who_joins_and_leaves(tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    for name, partner in (("one", "ab"), ("other", "c")):
        fit(tiny_federation(tuple(partner), participant={"privacy": PRIVATE}), tiny_data(partner)).save_checkpoint(
            tmp_path / name
        )
    one, other = (torch.load(tmp_path / name, weights_only=False) for name in ("one", "other"))
    joined = with_member(one, other, "c")
    assert joined["federation"]["privacy"]["c"] == [[1 / 3, 1.5, 3]]
    assert without_member(joined, "a")["federation"]["privacy"].keys() == {"b", "c"}
    torch.save(joined, path)
    federation = tiny_federation(tuple("abc"), participant={"privacy": PRIVATE})
    fit(federation, tiny_data("abc"), 2, ckpt_path=path)
    assert federation["a"].ledger.releases == 6


def test_a_checkpoint_that_was_not_private_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    fit(*alone(tiny_participant()), 1).save_checkpoint(path)
    with pytest.raises(ValueError, match="participant 'a': it was trained without privacy in the checkpoint"):
        fit(*alone(tiny_participant(privacy=PRIVATE)), 2, ckpt_path=path)


# The budget


def limited(steps: int) -> Participant:
    """A participant that may take so many steps, and not one more; batches hold all of its examples."""
    limit = gaussian_epsilon(1.5, steps, 1e-3) + 1e-3
    return tiny_participant(privacy=DPSGD(1.5, 0.3, 1e-3, max_epsilon=limit), local_epochs=3)


def whole(participant: Participant) -> tuple[Any, Any]:
    return alone(participant, batch_size=12)


def test_the_budget_ends_training_before_a_round_that_would_exceed_it(caplog: pytest.LogCaptureFixture) -> None:
    participant = limited(8)  # A round has 3 steps.
    made = fit(*whole(participant), 5)
    assert made.current_epoch == 2
    assert participant.ledger.state() == [[1.0, 1.5, 6]]
    assert "Training ends after round 1: participant 'a': its privacy is spent: epsilon is" in caplog.text
    assert "after the 3 steps of this round; max_epsilon=" in caplog.text


def test_a_budget_for_all_rounds_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    participant = limited(9)
    fit(*whole(participant), 3)
    assert participant.ledger.releases == 9
    assert "spent" not in caplog.text


def test_a_trainer_that_has_to_go_on_takes_no_step_beyond_it() -> None:
    participant = limited(4)
    with pytest.raises(PrivacyBudgetError, match="Round 1: participant 'a' takes no step: its privacy is spent"):
        fit(*whole(participant), 3, min_epochs=3)
    assert participant.ledger.releases == 3


def test_steps_that_nobody_planned_are_refused() -> None:
    participant = limited(4)

    class Longer(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            del trainer, args
            pl_module.local["a"].private.allow(0)

    with pytest.raises(PrivacyBudgetError, match="participant 'a': it is to take more steps than were planned"):
        fit(*whole(participant), 1, Longer())
    assert participant.ledger.releases == 1


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        (DPSGD(1.5, 0.3, 1e-3, max_epsilon=0.01), "its privacy is spent: epsilon is 0 at delta=0.001 and would be"),
        (DPSGD(0.1, 0.3, 1e-3), "its first round alone would cost an epsilon of [12].* which protects nobody"),
        (DPSGD(1e-9, 0.3, 1e-3), "its first round alone would cost an epsilon of at least .* which protects nobody"),
    ],
)
def test_a_first_round_that_costs_too_much_is_refused_before_training(privacy: DPSGD, said: str) -> None:
    participant = tiny_participant(privacy=privacy, local_epochs=2)
    before = state_of(participant)
    with pytest.raises(PrivacyBudgetError, match=f"Round 0: participant 'a' takes no step: {said}"):
        fit(*whole(participant), 1)
    assert equal(state_of(participant), before)
    assert participant.ledger.releases == 0


def test_it_may_be_asked_for() -> None:
    participant = tiny_participant(privacy=DPSGD(0.07, 0.3, 1e-3, max_epsilon=1e6))
    fit(*whole(participant), 1)
    assert participant.ledger.releases == 1


def test_an_older_checkpoint_takes_nothing_back(tmp_path: Path) -> None:
    path, participant = tmp_path / "some.ckpt", tiny_participant(privacy=PRIVATE)
    fit(*alone(participant), 1).save_checkpoint(path)
    fit(*alone(participant), 3, ckpt_path=path)
    assert participant.ledger.releases == 9
    fit(*alone(participant), 2, ckpt_path=path)  # Round 1 once more, with other noise.
    assert participant.ledger.releases == 12


# What would void it


class Own(Participant):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx)


class Mixing(nn.Module):
    """Takes the mean of the batch away, and has nothing that a list of layers would find."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(dim=0)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.GRU(2, 5, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.inside(inputs.view(-1, 2, 2))[0][:, -1]
        return outputs


def with_layer(*layers: nn.Module) -> Participant:
    return Participant(nn.Sequential(*layers), nn.Linear(5, 3), optimizer=sgd(), privacy=PRIVATE)


def outside() -> Participant:
    made = tiny_participant(privacy=PRIVATE)
    made.extra = nn.Linear(2, 2)
    return made


REFUSED: dict[str, tuple[Any, str]] = {
    "batch norm": (lambda: with_layer(nn.Linear(4, 5), nn.BatchNorm1d(5)), r"backbone.1 \(BatchNorm1d\) mixes the ex"),
    "bare batch norm": (
        lambda: with_layer(nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False, track_running_stats=False)),
        "BatchNorm1d",
    ),
    "GRU": (lambda: with_layer(Recurrent()), "Opacus refuses a layer: .*GRU"),
    "mixing": (lambda: with_layer(nn.Linear(4, 5), Mixing()), "depends on the others in its batch"),
    "own step": (
        lambda: Own(nn.Linear(4, 5), nn.Linear(5, 3), privacy=PRIVATE),
        "Own.training_step is its own, and what it does with examples is not known",
    ),
    "accumulation": (lambda: tiny_participant(privacy=PRIVATE, accumulate_grad_batches=2), "accumulate_grad_batches:"),
    "fitted": (lambda: tiny_participant(privacy=PRIVATE, transform=Standardise()), "its transform is fitted to all"),
    "balanced": (
        lambda: tiny_participant(privacy=PRIVATE, task=MulticlassTask(class_weights="balanced")),
        "weighs classes by how often its data has them",
    ),
    "own prior": (lambda: tiny_participant(privacy=PRIVATE, own_prior=0.5), "own_prior weighs the class shares"),
    "weighted": (
        lambda: tiny_participant(privacy=PRIVATE, task=MulticlassTask(class_weights=[1.0, 2.0, 3.0])),
        "divides by the weights of the whole batch",
    ),
    "outside": (outside, "extra.weight is trained and lies in neither backbone nor head"),
    "compiled by hand": (lambda: Participant(*compiled_by_hand(1), privacy=PRIVATE), "compile: a compiled backbone"),
    "compiled": (lambda: tiny_participant(privacy=PRIVATE, compile=True), "compile: a compiled backbone"),
    "plateau": (
        lambda: tiny_participant(
            privacy=PRIVATE,
            lr_scheduler=lambda one: L.pytorch.cli.ReduceLROnPlateau(one, monitor="val_loss"),
        ),
        "its scheduler follows a metric",
    ),
}


@pytest.mark.parametrize("made", REFUSED)
def test_participants_that_void_it_are_refused(made: str) -> None:
    participant, words = REFUSED[made]
    with pytest.raises(ValueError, match=rf"participant 'a': privacy=DPSGD\(...\) is not possible here: .*{words}"):
        fit(*alone(participant()))


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (EnsembleDistillation(mode="mixed"), "mode='mixed'"),
        (EnsembleDistillation(ClassPriorWeighted()), "ClassPriorWeighted tells how often"),
    ],
)
def test_callbacks_that_void_it_are_refused(callback: L.Callback, words: str) -> None:
    with pytest.raises(ValueError, match=f"participant 'a'.*is not possible here: .*{words}"):
        fit(tiny_federation(participant={"privacy": PRIVATE}), tiny_data(), 1, callback)


def test_a_callback_of_ones_own_that_adds_to_the_loss_is_refused_at_its_first_term() -> None:
    class Adding(BackboneAveraging):
        def adds_to_loss(self, federation: FederationView) -> bool:
            return True

        def local_loss(self, federation: FederationView, participant: Participant, batch_idx: int) -> Tensor:
            return next(participant.parameters()).square().sum()

    with pytest.raises(RuntimeError, match="Adding adds a term to the loss that is no mean"):
        fit(tiny_federation(participant={"privacy": PRIVATE}), tiny_data(batch_size=12), 1, Adding())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_is_refused(precision: str) -> None:
    with pytest.raises(ValueError, match=f"precision {precision} rounds gradients before they are clipped"):
        fit(*alone(tiny_participant(privacy=PRIVATE)), 1, precision=precision)


def test_alone_in_a_trainer_it_is_refused() -> None:
    trainer = L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
                        enable_progress_bar=False)  # fmt: skip
    data = examples(8)
    loader: Any = DataLoader([data[index] for index in range(8)], batch_size=4)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="alone in a Trainer it would train without noise"):
        trainer.fit(tiny_participant(privacy=PRIVATE), loader, loader)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier: expected a finite number above 0, got 0.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm: expected a finite norm above 0, got 0.0"),
        ({"delta": 2.0}, "delta: expected a probability"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DPSGD(**({"noise_multiplier": 1.0, "max_grad_norm": 1.0, "delta": 1e-3} | settings))


def test_without_opacus_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opacus", None)
    with pytest.raises(ImportError, match=r"DP-SGD needs Opacus.*pip install 'hetfed-lightning\[privacy\]'"):
        DPSGD(1.0, 1.0, 1e-3)
