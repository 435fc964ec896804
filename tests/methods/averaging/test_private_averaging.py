"""Participant-level privacy in a federation: the noise that arrives, the account, what is refused."""

import logging
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from scipy import stats
from torch import Tensor, nn

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    Federation,
    FederationView,
    Inheritance,
    Participant,
    Phase,
    PrivateAveraging,
)
from hetfed_lightning.aggregation import coordinate_median
from hetfed_lightning.federation.membership import with_member, without_member
from tests.federations import (
    Snapshots,
    equal,
    fit,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
)
from tests.privacy.closed_forms import gaussian_epsilon

pytestmark = pytest.mark.promise("private")
DELTA = 1e-3


def private(**settings: Any) -> PrivateAveraging:
    return PrivateAveraging(**({"noise_multiplier": 2.0, "max_update_norm": 0.5, "delta": DELTA} | settings))


def still(names: str = "abc", **settings: Any) -> Federation:
    """Participants that do not move: what they share moves by the noise alone."""
    return tiny_federation(tuple(names), participant={"optimizer": sgd(0.0)} | settings)


def wide(names: str, hidden: int) -> Federation:
    """Participants that do not move, of ``5 * hidden`` shared numbers."""
    members = {
        name: tiny_participant(hidden=hidden, seed=place, optimizer=sgd(0.0)) for place, name in enumerate(names)
    }
    return Federation(members)


def shared(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten().double() for key, tensor in state.items() if key.startswith("backbone")])


# What arrives


@pytest.mark.parametrize("names", ["ab", "abcde"])
def test_the_noise_on_the_average_of_k_has_the_multiplier_asked_for(names: str, tally: Any) -> None:
    seen = Snapshots()
    fit(wide(names, 4000), tiny_data(names, evaluated=False), 1, private(), seen)  # 20,000 draws
    moved = shared(seen.ends[0]["a"]) - shared(seen.starts[0]["a"])
    # One of K moves the mean by 0.5 / K at most; twice that is the noise asked for.
    effective = float(moved.std()) / (0.5 / len(names))
    chance = float(stats.kstest((moved / moved.std()).numpy(), "norm").pvalue)
    held = abs(effective - 2.0) < 0.03 * 2.0 and chance > 1e-6
    tally(tried=20_000, held=20_000 * held)
    assert effective == pytest.approx(2.0, rel=0.03)
    assert chance > 1e-6


def test_everyone_receives_the_same_and_heads_stay() -> None:
    federation, seen = still(), Snapshots()
    heads = {name: state_of(member.head) for name, member in federation.members().items()}
    fit(federation, tiny_data(evaluated=False), 2, private(), seen)
    for end in seen.ends:
        assert torch.equal(shared(end["a"]), shared(end["b"]))
        assert torch.equal(shared(end["a"]), shared(end["c"]))
    assert all(equal(state_of(federation[name].head), heads[name]) for name in heads)


def test_no_seed_repeats_the_noise() -> None:
    ends = []
    for _ in range(2):
        L.seed_everything(0, verbose=False)
        federation = still()
        fit(federation, tiny_data(evaluated=False), 1, private())
        ends.append(shared(state_of(federation["a"])))
    assert not torch.equal(*ends)


class Away(Participant):
    """Sends weights that are a million more than they were."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            self.get_parameter("backbone.0.weight").add_(1e6)


def test_one_participant_moves_the_sum_by_the_norm_at_most() -> None:
    boosted = Away(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3), optimizer=sgd(0.0))
    ends = []
    for members in (still().members() | {"b": boosted}, still().members()):
        federation = Federation(members)
        fit(federation, tiny_data(evaluated=False), 1, private(noise_seed=3))
        ends.append(shared(state_of(federation["a"])))
    assert 3 * float((ends[0] - ends[1]).norm()) == pytest.approx(0.5, rel=1e-4)


class Poisoned(Participant):
    """Has a loss that is not a number: quarantined in every round."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * float("nan")


def test_who_is_quarantined_counts_as_no_update_and_pays() -> None:
    faulty = Poisoned(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3), optimizer=sgd())
    ends, averaging = [], private(noise_seed=3)
    for members in (still().members() | {"b": faulty}, still().members()):
        federation = Federation(members)
        averaging = private(noise_seed=3)
        fit(federation, tiny_data(evaluated=False), 1, averaging)
        ends.append(shared(state_of(federation["a"])))
        assert averaging.releases == {"a": 1, "b": 1, "c": 1}
    # Neither the denominator nor the noise tells that b was left out.
    assert torch.equal(*ends)


def test_frozen_parameters_are_not_released() -> None:
    federation, seen = still(), Snapshots()
    for member in federation.members().values():
        member.get_parameter("backbone.0.weight").requires_grad_(False)
    fit(federation, tiny_data(evaluated=False), 1, private(), seen)
    start, end = seen.starts[0]["a"], seen.ends[0]["a"]
    assert torch.equal(start["backbone.0.weight"], end["backbone.0.weight"])
    assert not torch.equal(start["backbone.0.bias"], end["backbone.0.bias"])


def test_a_server_optimizer_works_on_what_was_released() -> None:
    ends = []
    for server in (None, sgd(0.5)):
        federation, seen = still(), Snapshots()
        fit(federation, tiny_data(evaluated=False), 1, private(noise_seed=1, server_optimizer=server), seen)
        ends.append(shared(seen.ends[0]["a"]) - shared(seen.starts[0]["a"]))
    torch.testing.assert_close(ends[1], ends[0] / 2, rtol=1e-4, atol=1e-6)


def test_batch_norm_keeps_its_statistics_at_home() -> None:
    def normalised() -> Participant:
        return Participant(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), nn.Linear(5, 3), optimizer=sgd(0.0))

    federation, seen = Federation({name: normalised() for name in "abc"}), Snapshots()
    fit(federation, tiny_data(evaluated=False), 1, private(), seen)
    end = seen.ends[0]
    assert not torch.equal(end["a"]["backbone.1.running_mean"], end["b"]["backbone.1.running_mean"])
    assert torch.equal(end["a"]["backbone.1.weight"], end["b"]["backbone.1.weight"])


# The account


def test_epsilon_is_logged_and_is_that_of_the_closed_form() -> None:
    averaging = private(noise_multiplier=4.0)
    made = fit(still(), tiny_data(), 3, averaging)
    exact = gaussian_epsilon(4.0, 3, DELTA)
    assert exact <= averaging.epsilon <= exact + 1e-3
    assert float(made.callback_metrics["federation/epsilon"]) == pytest.approx(averaging.epsilon)
    # What was sent is not told without noise.
    assert not {"federation/divergence", "federation/clipped"} & made.callback_metrics.keys()


def test_who_is_not_sampled_does_not_pay_and_gains_nothing() -> None:
    federation, averaging = still("abcd"), private()
    federation.participation = 0.5
    rounds = 6
    active: list[str] = []

    class Watch(FederatedCallback):
        phase = Phase.MONITORING

        def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
            active.extend(federation.active_names(round_index))

    fit(federation, tiny_data("abcd", evaluated=False), rounds, averaging, Watch())
    assert averaging.releases == {name: active.count(name) for name in sorted(set(active), key=active.index)}
    most = max(averaging.releases.values())
    assert most < rounds
    assert averaging.epsilon == pytest.approx(gaussian_epsilon(2.0, most, DELTA), abs=1e-4)


def test_who_is_in_two_groups_pays_twice() -> None:
    # a and b share all of the backbone, c only its bias: its weights are of another shape.
    members = {
        "a": tiny_participant(seed=0, optimizer=sgd(0.0)),
        "b": tiny_participant(seed=1, optimizer=sgd(0.0)),
        "c": Participant(
            nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), nn.Linear(2, 3), optimizer=sgd(0.0)
        ),
    }
    members["a"].shared, members["b"].shared, members["c"].shared = ("*",), ("*",), ("backbone.0",)
    averaging = private()
    fit(Federation(members), tiny_data(evaluated=False), 2, averaging)
    assert len(averaging.sharing) == 2
    assert averaging.releases == {"a": 4, "b": 4, "c": 2}
    assert averaging.epsilon == pytest.approx(gaussian_epsilon(2.0, 4, DELTA), abs=1e-4)


def test_every_n_rounds_releases_every_n_rounds() -> None:
    averaging = private(every_n_rounds=2)
    fit(still(), tiny_data(evaluated=False), 5, averaging)
    assert set(averaging.releases.values()) == {2}


def test_the_budget_ends_training_before_it_is_exceeded(caplog: pytest.LogCaptureFixture) -> None:
    limit = gaussian_epsilon(4.0, 3, DELTA) + 1e-3  # Three releases are within it, four are not.
    averaging, seen = private(noise_multiplier=4.0, max_epsilon=limit), Snapshots()
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        made = fit(still(), tiny_data(), 10, averaging, seen)
    assert made.current_epoch == len(seen.ends) == 3
    assert averaging.epsilon <= limit
    assert (
        "Training ends after round 2: epsilon is 1.14 at delta=0.001, and would be 1.35 after the next" in caplog.text
    )
    assert made.callback_metrics["val_accuracy/a"] >= 0  # The last round was validated.


def test_a_trainer_that_has_to_go_on_shares_nothing_more() -> None:
    limit = gaussian_epsilon(4.0, 2, DELTA) + 1e-3
    averaging, seen = private(noise_multiplier=4.0, max_epsilon=limit), Snapshots()
    fit(still(), tiny_data(), 4, averaging, seen, min_epochs=4)
    assert set(averaging.releases.values()) == {2}
    assert len(seen.ends) == 4
    assert torch.equal(shared(seen.ends[1]["a"]), shared(seen.ends[3]["a"]))


def test_a_budget_that_one_release_exceeds_is_refused_before_training() -> None:
    with pytest.raises(
        ValueError, match=r"max_epsilon=0.1 does not allow the next release: epsilon is 0 .* would be 1.35"
    ):
        fit(still(), tiny_data(), 1, private(max_epsilon=0.1))


@pytest.mark.parametrize(
    ("noise_multiplier", "noise_seed", "found"),
    [(0.08, None, "11[0-9]"), (0.08, 3, "11[0-9]"), (1e-9, None, "at least")],
)
def test_a_first_release_that_protects_nobody_is_refused_before_training(
    noise_multiplier: float, noise_seed: int | None, found: str
) -> None:
    federation = still()
    before = state_of(federation["a"])
    averaging = private(noise_multiplier=noise_multiplier, noise_seed=noise_seed)
    said = rf"noise_multiplier={noise_multiplier:g}\): the first average alone .* epsilon of {found}.* Raise noise"
    with pytest.raises(ValueError, match=said):
        fit(federation, tiny_data(), 1, averaging)
    assert equal(state_of(federation["a"]), before)
    assert averaging.epsilon == 0


def test_a_first_release_that_protects_nobody_may_be_asked_for() -> None:
    averaging = private(noise_multiplier=0.06, max_epsilon=1000.0)
    fit(still(), tiny_data(evaluated=False), 1, averaging)
    exact = gaussian_epsilon(0.06, 1, DELTA)
    assert averaging.epsilon == pytest.approx(exact, rel=1e-3)
    assert exact > 100
    with pytest.raises(ValueError, match="max_epsilon=150 does not allow the next release"):
        fit(still(), tiny_data(evaluated=False), 1, private(noise_multiplier=0.06, max_epsilon=150.0))


# Checkpoints


def resumed(path: Path, averaging: PrivateAveraging, rounds: int = 4, **settings: Any) -> Federation:
    federation = still()
    fit(federation, tiny_data(evaluated=False), rounds, averaging, ckpt_path=path, **settings)
    return federation


def test_counts_go_on_after_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    fit(still(), tiny_data(evaluated=False), 2, private()).save_checkpoint(path)
    averaging = private(noise_multiplier=4.0)  # Other noise from here on.
    resumed(path, averaging)
    assert averaging.releases == dict.fromkeys("abc", 4)
    # 2 / 2^2 + 2 / 4^2 = 10 / 16, as of one release of z = 4 / sqrt(10).
    assert averaging.epsilon == pytest.approx(gaussian_epsilon(4 / math.sqrt(10), 1, DELTA), abs=1e-4)


def test_an_older_checkpoint_takes_nothing_back(tmp_path: Path) -> None:
    path, averaging = tmp_path / "some.ckpt", private()
    fit(still(), tiny_data(evaluated=False), 1, averaging).save_checkpoint(path)
    resumed(path, averaging, 3)
    resumed(path, averaging, 2)  # Round 1 once more, with other noise.
    assert averaging.releases == dict.fromkeys("abc", 4)


def test_a_rehearsal_resumes_in_every_bit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, whole = tmp_path / "some.ckpt", still()
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        made = fit(whole, tiny_data(evaluated=False), 4, private(noise_seed=5))
    assert "noise_seed=5 makes this a rehearsal" in caplog.text
    assert "federation/epsilon_rehearsed" in made.callback_metrics
    assert "federation/epsilon" not in made.callback_metrics
    fit(still(), tiny_data(evaluated=False), 2, private(noise_seed=5)).save_checkpoint(path)
    assert equal(state_of(resumed(path, private(noise_seed=5))), state_of(whole))


def test_a_budget_that_is_spent_is_refused_after_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    fit(still(), tiny_data(evaluated=False), 2, private()).save_checkpoint(path)
    with pytest.raises(
        ValueError, match=r"max_epsilon=2 does not allow the next release: epsilon is 2\.0.* would be 2"
    ):
        resumed(path, private(max_epsilon=2.0))


def test_checkpoints_that_were_not_private_are_refused(tmp_path: Path) -> None:
    plain, rehearsed = tmp_path / "plain.ckpt", tmp_path / "rehearsed.ckpt"
    fit(still(), tiny_data(evaluated=False), 2, BackboneAveraging()).save_checkpoint(plain)
    with (
        pytest.warns(UserWarning, match="BackboneAveraging"),
        pytest.raises(ValueError, match="made without PrivateAv"),
    ):
        resumed(plain, private())
    fit(still(), tiny_data(evaluated=False), 2, private(noise_seed=5)).save_checkpoint(rehearsed)
    with pytest.raises(ValueError, match="The checkpoint was rehearsed with a noise_seed"):
        resumed(rehearsed, private())


def test_who_leaves_and_comes_back_has_not_been_forgotten(tmp_path: Path) -> None:
    path, averaging = tmp_path / "some.ckpt", private()
    fit(still(), tiny_data(evaluated=False), 2, averaging).save_checkpoint(path)
    whole = torch.load(path, weights_only=False)
    left = without_member(whole, "b")
    torch.save(left, path)
    averaging = private()
    fit(still("ac"), tiny_data("ac", evaluated=False), 3, averaging, ckpt_path=path).save_checkpoint(path)
    assert averaging.releases == {"a": 3, "b": 2, "c": 3}
    back = with_member(torch.load(path, weights_only=False), whole, "b")
    torch.save(back, path)
    averaging = private()
    fit(still("acb"), tiny_data("acb", evaluated=False), 4, averaging, ckpt_path=path)
    assert averaging.releases == {"a": 4, "b": 3, "c": 4}


def test_a_callback_used_again_has_not_forgotten_its_releases() -> None:
    averaging = private()
    for _ in range(2):
        fit(still(), tiny_data(evaluated=False), 2, averaging)
    assert set(averaging.releases.values()) == {4}


# What would void it


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"weighting": "samples"},
            "weighting: expected 'uniform', got 'samples': noise is made for participants of equal",
        ),
        ({"weighting": {"a": 1.0, "b": 2.0}}, "weighting: expected 'uniform', got {'a': 1.0, 'b': 2.0}"),
        ({"rule": coordinate_median}, "rule: expected weighted_mean, got coordinate_median"),
        ({"buffers": "average"}, "buffers: expected 'local' or 'reset', got 'average'"),
        ({"noise_multiplier": 0.0}, "noise_multiplier: expected a finite number above 0"),
        ({"max_update_norm": math.inf}, "max_update_norm: expected a finite norm above 0"),
        ({"max_update_norm": None}, "max_update_norm: expected a finite norm above 0"),
        ({"delta": 0.0}, "delta: expected a probability"),
        ({"max_epsilon": 0.0}, "max_epsilon: expected a finite number above 0"),
        ({"synchronise_start": False}, "with synchronise_start=False"),
    ],
)
def test_settings_that_void_it_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("{", r"\{")):
        private(**settings)


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        (EnsembleDistillation(), "beside EnsembleDistillation protects nobody: its teachers' answers"),
        (BackboneAveraging(), "beside BackboneAveraging protects nobody: it releases states of its own"),
        (private(), "Found more than one stateful callback of type `PrivateAveraging`"),  # Lightning's own words
        (Inheritance(tiny_federation()), "beside Inheritance protects nobody"),
    ],
    ids=["distillation", "averaging", "twice", "inheritance"],
)
def test_callbacks_that_void_it_are_refused(beside: L.Callback, words: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=words):
        fit(still(), tiny_data(), 1, private(), beside)


def test_what_epsilon_does_not_count_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Gossip(FederatedCallback):
        phase = Phase.DISTILLATION

    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        fit(still(), tiny_data(), 1, private(delta=0.5), EarlyStopping("val_loss/a"), Gossip())
    assert "Gossip acts between participants, and what it lets out is not accounted for" in caplog.text
    assert "EarlyStopping(monitor='val_loss/a') chooses by a metric without noise" in caplog.text
    assert "delta=0.5 allows that one of 3 participants is given away altogether" in caplog.text


def test_without_dp_accounting_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    with pytest.raises(ImportError, match=r"pip install 'hetfed-lightning\[privacy\]'"):
        private()
