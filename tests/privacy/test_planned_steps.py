"""Planned steps on own data beside the local ones, under DP-SGD: sampled, noised, counted and bounded alike."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from hetfed_lightning import BackboneAveraging, FederatedDataModule, Federation, Participant
from hetfed_lightning.local_training.dpsgd_steps import PrivacyBudgetError, PrivateSteps
from hetfed_lightning.methods import planned_work
from hetfed_lightning.methods.plans import Moment, Part
from hetfed_lightning.privacy import DPSGD
from hetfed_lightning.privacy.accountant import epsilon_of
from tests.federations import equal, examples, fit, sgd, state_of, tiny_participant
from tests.methods.planned import HEAD, Planned
from tests.privacy.closed_forms import gaussian_epsilon
from tests.privacy.test_dpsgd import clipped_step, zeros
from tests.privacy.test_methods import Mixing

pytestmark = pytest.mark.promise("private")

NOISE, BOUND, DELTA = 1.5, 0.3, 1e-3


def private(limit: float | None = None, **settings: Any) -> Participant:
    return tiny_participant(privacy=DPSGD(NOISE, BOUND, DELTA, max_epsilon=limit), **settings)


def data(names: str = "a", batch_size: int = 4) -> FederatedDataModule:
    return FederatedDataModule({name: examples(12) for name in names}, batch_size=batch_size)


def planned(moment: Moment, *parts: Part) -> Planned:
    made = Planned(lambda _: parts, moment)
    made.name = moment
    return made


def poisson_epsilon(steps: int) -> float:
    """Epsilon of so many steps on batches of 4 of 12."""
    return epsilon_of(((1 / 3, NOISE, steps),), DELTA)


def test_every_planned_step_is_in_the_account() -> None:
    # Two rounds of 3 local steps. a: 2 after each result and a pass of 3 at last. b joins for the second: 4 steps, then
    # 3 local ones, 2 and 3.
    members = {"a": private(), "b": private(joins_at=1)}
    methods = [
        planned("received", Part(steps=2, trains=HEAD)),
        planned("last", Part(epochs=1, optimizer=sgd())),
        planned("joined", Part(steps=4)),
    ]
    run = fit(Federation(dict(members)), data("ab"), 2, BackboneAveraging(), *methods)
    expected = {"a": 2 * 3 + 2 * 2 + 3, "b": 4 + 3 + 2 + 3}
    for name, steps in expected.items():
        assert members[name].ledger.state() == [[1 / 3, NOISE, steps]]
        assert members[name].ledger.epsilon(DELTA) == poisson_epsilon(steps)
    assert float(run.callback_metrics["epsilon/a"]) == pytest.approx(poisson_epsilon(13))


def test_whole_batches_cost_what_a_gaussian_costs_in_closed_form() -> None:
    member = private()
    fit(Federation({"a": member}), data(batch_size=12), 3, planned("received", Part(steps=4)))
    assert member.ledger.epsilon(DELTA) == pytest.approx(gaussian_epsilon(NOISE, 3 * 5, DELTA), rel=1e-3)


@pytest.mark.parametrize("moment", ["received", "last"])
def test_a_step_is_what_each_example_alone_gives(moment: Moment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivateSteps, "noise", staticmethod(zeros))
    member = private(optimizer=sgd(1.0))
    expected = clipped_step(member, examples(12), 1.0, BOUND)
    fit(
        Federation({"a": member}),
        data(batch_size=12),
        1,
        planned("local", Part(steps=0)),
        planned(moment, Part(steps=1)),
    )
    torch.testing.assert_close(state_of(member), expected, rtol=1e-4, atol=1e-6)


def test_there_is_noise_of_the_size_asked_for() -> None:
    member = private(optimizer=sgd(1.0), hidden=3000)
    expected = clipped_step(member, examples(12), 1.0, BOUND)
    fit(
        Federation({"a": member}), data(batch_size=12), 1,
        planned("local", Part(steps=0)), planned("received", Part(steps=1)),
    )  # fmt: skip
    noise = torch.cat([(one - expected[key]).flatten() for key, one in state_of(member).items()])
    assert float(noise.std()) == pytest.approx(NOISE * BOUND / 12, rel=0.03)


def test_batches_are_poisson_samples_and_an_empty_one_is_noise_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, float]] = []
    samples = iter([torch.tensor([1, 1 + 4, 11]), torch.tensor([], dtype=torch.int64), torch.arange(12)])

    def sampled(total: int, probability: float) -> Tensor:
        drawn.append((total, probability))
        return next(samples)

    monkeypatch.setattr(planned_work, "random_positions", sampled)
    monkeypatch.setattr(PrivateSteps, "noise", staticmethod(zeros))
    member = private(optimizer=sgd(1.0))
    whole = examples(12)
    by_hand = tiny_participant()
    for places in ([1, 5, 11], [], list(range(12))):
        if places:
            inputs, target = whole.batch(torch.tensor(places))
            start = state_of(by_hand)
            after = clipped_step(by_hand, type(whole)(inputs, target), 1.0, BOUND)
            # Divided by the 4 examples that are expected, not by those that are there.
            moved = {key: start[key] + (after[key] - start[key]) * len(places) / 4 for key in start}
            by_hand.load_state_dict(moved)
    fit(Federation({"a": member}), data(), 1, planned("local", Part(steps=0)), planned("received", Part(steps=3)))
    assert drawn == [(12, 1 / 3)] * 3
    torch.testing.assert_close(state_of(member), state_of(by_hand), rtol=1e-4, atol=1e-6)


# Budgets


@pytest.mark.parametrize(
    ("moment", "steps"),
    [("received", 3 + 5), ("last", 3 + 5)],
)
def test_a_round_that_would_exceed_the_budget_at_any_moment_does_not_begin(moment: Moment, steps: int) -> None:
    for limit, allowed in ((1.001, True), (0.999, False)):
        member = private(limit * poisson_epsilon(steps))
        start = state_of(member)
        federation = Federation({"a": member})
        if allowed:
            fit(federation, data(), 1, planned(moment, Part(steps=5)))
            assert member.ledger.releases == steps
            continue
        with pytest.raises(PrivacyBudgetError, match=f"participant 'a' takes no step: .* after the {steps} steps"):
            fit(federation, data(), 1, planned(moment, Part(steps=5)))
        assert member.ledger.releases == 0
        assert equal(state_of(member), start)


def test_training_ends_before_a_last_part_that_is_not_paid_for(caplog: pytest.LogCaptureFixture) -> None:
    member = private(1.001 * poisson_epsilon(3 + 2 + 3 + 2 + 4))
    run = fit(Federation({"a": member}), data(), 2, planned("received", Part(steps=2)), planned("last", Part(steps=5)))
    assert run.current_epoch == 1
    assert member.ledger.releases == 5
    assert "Training ends after round 0: participant 'a': its privacy is spent" in caplog.text
    assert "after the 10 steps of this round" in caplog.text


def test_a_newcomer_pays_before_its_first_round() -> None:
    member = private(1.001 * poisson_epsilon(3 + 3), joins_at=1)
    federation = Federation({"a": tiny_participant(), "b": member})
    run = fit(federation, data("ab"), 2, BackboneAveraging(), planned("joined", Part(steps=4)))
    assert run.current_epoch == 1
    assert member.ledger.releases == 0


def test_who_was_not_sampled_pays_for_its_last_part() -> None:
    members = {name: private(1.001 * poisson_epsilon(5)) for name in "abcdef"}
    federation = Federation(dict(members), participation=0.5)
    fit(federation, data("abcdef"), 1, planned("last", Part(steps=2)))
    sampled = federation.active_names(0)
    assert {name: one.ledger.releases for name, one in members.items()} == {
        name: 5 if name in sampled else 2 for name in members
    }
    spent = {name: private(0.999 * poisson_epsilon(2)) for name in "abcdef"}
    with pytest.raises(PrivacyBudgetError, match="takes no step"):
        fit(Federation(dict(spent), participation=0.5), data("abcdef"), 1, planned("last", Part(steps=2)))
    assert not any(one.ledger.releases for one in spent.values())


def test_more_than_was_planned_as_the_round_began_is_refused() -> None:
    asked = []

    def growing(_: int) -> list[Part]:
        asked.append(1)
        return [Part(steps=len(asked))]

    member = private(100.0)
    with pytest.raises(PrivacyBudgetError, match="it is to take more steps than were planned as the round began"):
        fit(Federation({"a": member}), data(), 1, Planned(growing, "received"))
    assert member.ledger.releases < 3 + len(asked)


# What would void it


class MixingOnce(Mixing):
    """Mixes examples from the first result on, after which it plans a step."""

    def plan(self, participant: Participant, moment: Any, round_index: int) -> list[Part]:
        return [Part(steps=1)] if moment == "received" else []


def test_a_loss_that_mixes_what_was_received_is_refused_before_the_planned_steps() -> None:
    member = private()
    with pytest.raises(ValueError, match=r"privacy=DPSGD\(...\) is not possible beside MixingOnce: the gradient of an"):
        fit(Federation({"a": member}), data(), 1, MixingOnce(1))
    assert member.ledger.releases == 3


# Resume


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_resumed_run_counts_what_was_never_stopped(step: int, tmp_path: Path) -> None:
    def run(folder: str, member: Participant, **settings: Any) -> Participant:
        saving = ModelCheckpoint(tmp_path / folder, "{step}", save_top_k=-1, every_n_train_steps=1)
        methods = [planned("received", Part(steps=2)), planned("last", Part(steps=4))]
        fit(Federation({"a": member}), data(), 2, *methods, saving, enable_checkpointing=True, **settings)
        return member

    # Exactly what the run costs: a step counted twice would be refused.
    limit = 1.001 * poisson_epsilon(14)
    assert run("whole", private(limit)).ledger.releases == 14
    path = tmp_path / "whole" / f"step={step}.ckpt"
    assert run("rest", private(limit), ckpt_path=path).ledger.releases == 14
