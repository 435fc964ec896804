from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetfed_lightning import (
    About,
    BackboneAveraging,
    Combined,
    FederatedDataModule,
    Federation,
    Message,
    Participant,
    ServerMemory,
)
from hetfed_lightning.aggregation import TrimmedMean, coordinate_median
from hetfed_lightning.backbones import ConvBackbone, MLPBackbone, RecurrentBackbone
from hetfed_lightning.data import Examples
from tests.federations import (
    Snapshots,
    SnapshotsBefore,
    equal,
    examples,
    fit,
    line,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
    values,
)

NAMES = ("a", "b", "c")  # with 12, 16 and 20 training samples


def part(state: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if key.startswith(f"{module}.")}


def still(**settings: Any) -> Federation:
    """Participants that do not move, each with weights of its own."""
    return tiny_federation(participant={"optimizer": sgd(0.0)} | settings)


def backbones_after(averaging: BackboneAveraging, federation: Federation) -> tuple[list[Tensor], list[Tensor]]:
    """The first weights of every backbone, before and after one round."""
    before = [state_of(member)["backbone.0.weight"] for member in federation.members().values()]
    fit(federation, tiny_data(evaluated=False), 1, averaging)
    return before, [state_of(member)["backbone.0.weight"] for member in federation.members().values()]


# Who counts how much


@pytest.mark.parametrize(
    ("weighting", "shares"),
    [
        ("samples", [12 / 48, 16 / 48, 20 / 48]),
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
        ({"a": 1.0, "b": 3.0, "c": 0.0}, [0.25, 0.75, 0.0]),
    ],
)
def test_weighting(weighting: Any, shares: list[float]) -> None:
    averaging = BackboneAveraging(weighting=weighting, synchronise_start=False)
    before, after = backbones_after(averaging, still())
    expected = sum((share * weights.double() for share, weights in zip(shares, before, strict=True)), torch.zeros(()))
    for weights in after:
        torch.testing.assert_close(weights.double(), expected, rtol=0, atol=1e-7)


class Boasting(FederatedDataModule):
    """Says that c has a million millions of examples, or whatever else."""

    claimed: Any = 10**12

    def num_samples(self, name: str) -> int:
        return self.claimed if name == "c" else super().num_samples(name)


def boasting(claimed: Any) -> Boasting:
    data = tiny_data(evaluated=False).data
    made = Boasting(data.train, batch_size=4)
    made.claimed = claimed
    return made


@pytest.mark.promise("size")
def test_a_lie_about_size_is_bounded_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    federation = still()
    before = [state_of(member)["backbone.0.weight"] for member in federation.members().values()]
    with caplog.at_level("WARNING", "hetfed_lightning"):
        fit(federation, boasting(10**12), 2, BackboneAveraging(synchronise_start=False))
    # a has 12 examples, b 16, and c weighs no more than they do together.
    expected = sum(share * one.double() for share, one in zip([12 / 56, 16 / 56, 28 / 56], before, strict=True))
    torch.testing.assert_close(state_of(federation["a"])["backbone.0.weight"].double(), expected, rtol=0, atol=1e-7)
    (warning,) = [one.getMessage() for one in caplog.records]
    assert warning.startswith("BackboneAveraging: c has 1000000000000 of 1000000000028 examples and weighs as 28 would")


@pytest.mark.promise("size")
@pytest.mark.parametrize("claimed", [-9, True, float("nan")])
def test_what_is_no_size_is_refused_by_name(claimed: Any) -> None:
    with pytest.raises(ValueError, match="participant 'c': expected a number of examples, whole and at least 0, got"):
        fit(still(), boasting(claimed), 1, BackboneAveraging())


def test_heads_stay_with_their_owners() -> None:
    federation = still()
    heads = [part(state_of(member), "head") for member in federation.members().values()]
    fit(federation, tiny_data(), 2, BackboneAveraging())
    assert all(
        equal(part(state_of(member), "head"), head)
        for member, head in zip(federation.members().values(), heads, strict=True)
    )


def test_shared_heads_and_personal_backbones() -> None:
    federation = tiny_federation(participant={"shared": ("head",)})
    fit(federation, tiny_data(), 1, BackboneAveraging())
    one, other = (state_of(federation[name]) for name in "ab")
    assert equal(part(one, "head"), part(other, "head"))
    assert not torch.equal(one["backbone.0.weight"], other["backbone.0.weight"])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (coordinate_median, lambda stack: stack.median(dim=0).values),
        # ceil(0.1 * 3) = 1 of 3 is dropped at each side: the median again.
        (TrimmedMean(0.1), lambda stack: stack.sort(dim=0).values[1]),
    ],
    ids=["median", "trimmed mean"],
)
def test_robust_rules_through_the_callback(rule: Any, expected: Any) -> None:
    before, after = backbones_after(BackboneAveraging(rule, synchronise_start=False), still())
    for weights in after:
        torch.testing.assert_close(weights, expected(torch.stack(before)), rtol=0, atol=1e-7)


class Skipping(Participant):
    """Has nothing to say: none of its steps has a loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None


def test_who_made_no_step_receives_but_does_not_contribute() -> None:
    federation = still()
    silent = Skipping(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3), optimizer=sgd())
    members = federation.members() | {"b": silent}
    before, after = backbones_after(
        BackboneAveraging(weighting="uniform", synchronise_start=False), Federation(members)
    )
    for weights in after:
        torch.testing.assert_close(weights, (before[0] + before[2]) / 2)


# Clipping


class Away(Participant):
    """Says that its weights are a million more than they are."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            self.get_parameter("backbone.0.weight").add_(1e6)


def test_an_update_is_clipped_to_the_bound() -> None:
    boosted = Away(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3), optimizer=sgd(0.0))
    federation = Federation(still().members() | {"b": boosted})
    averaging, seen = BackboneAveraging(weighting="uniform", max_update_norm=0.6), Snapshots()
    trained = fit(federation, tiny_data(evaluated=False), 2, averaging, seen)
    for start, end in zip(seen.starts, seen.ends, strict=True):
        # Two of three stand still, and the third moves by 0.6: the mean moves by 0.2.
        moved = part(end["a"], "backbone")["backbone.0.weight"] - part(start["a"], "backbone")["backbone.0.weight"]
        assert float(moved.norm()) == pytest.approx(0.2, rel=1e-5)
        assert equal(part(end["a"], "backbone"), part(end["b"], "backbone"))
    assert trained.callback_metrics["federation/clipped"] == pytest.approx(1 / 3)


def test_a_bound_that_nobody_reaches_changes_nothing() -> None:
    ends = []
    for bound in (None, 1e9):
        federation = tiny_federation()
        trained = fit(federation, tiny_data(evaluated=False), 2, BackboneAveraging(max_update_norm=bound))
        ends.append(state_of(federation))
        assert trained.callback_metrics.get("federation/clipped") == (None if bound is None else 0.0)
    assert equal(*ends)


def test_clipping_goes_on_after_a_checkpoint(tmp_path: Path) -> None:
    ends = []
    for stop in (None, 1):
        federation, averaging = tiny_federation(), BackboneAveraging(max_update_norm=0.01)
        trained = fit(federation, tiny_data(evaluated=False), stop or 2, averaging)
        if stop:
            trained.save_checkpoint(tmp_path / "one.ckpt")
            federation = tiny_federation()
            again = BackboneAveraging(max_update_norm=0.01)
            fit(federation, tiny_data(evaluated=False), 2, again, ckpt_path=tmp_path / "one.ckpt")
        ends.append(state_of(federation))
    assert equal(*ends)


# When


def test_every_n_rounds() -> None:
    federation, snapshots = tiny_federation(), Snapshots()
    fit(federation, tiny_data(evaluated=False), 4, BackboneAveraging(every_n_rounds=2), snapshots)
    agree = [equal(part(end["a"], "backbone"), part(end["c"], "backbone")) for end in snapshots.ends]
    assert agree == [False, True, False, True]


def test_everyone_starts_with_the_first_ones_backbone() -> None:
    federation, snapshots = tiny_federation(), Snapshots()
    first, own_head = part(state_of(federation["a"]), "backbone"), part(state_of(federation["c"]), "head")
    fit(federation, tiny_data(evaluated=False), 1, BackboneAveraging(), snapshots)
    for name in NAMES:
        assert equal(part(snapshots.starts[0][name], "backbone"), first)
    assert equal(part(snapshots.starts[0]["c"], "head"), own_head)


def test_starts_may_differ() -> None:
    federation, snapshots = tiny_federation(), Snapshots()
    own = state_of(federation["c"])
    fit(federation, tiny_data(evaluated=False), 1, BackboneAveraging(synchronise_start=False), snapshots)
    assert equal(snapshots.starts[0]["c"], own)


def test_a_callback_used_again_forgets_the_run_before() -> None:
    averaging, server = BackboneAveraging(), BackboneAveraging(server_optimizer=sgd(1.0, momentum=0.9))
    for callback in (averaging, server):
        ends = []
        for _ in range(2):
            federation = tiny_federation()
            fit(federation, tiny_data(evaluated=False), 2, callback)
            ends.append(state_of(federation))
        assert equal(*ends)


# Buffers and optimizers


def normalised(**settings: Any) -> Participant:
    return Participant(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), nn.Linear(5, 3), optimizer=sgd(), **settings)


@pytest.mark.parametrize("buffers", ["local", "average", "reset"])
def test_running_statistics(buffers: Any) -> None:
    federation = Federation({name: normalised() for name in "ab"})
    before, after = SnapshotsBefore(), Snapshots()
    data = FederatedDataModule({"a": examples(8), "b": examples(24, seed=1)}, batch_size=4)
    fit(federation, data, 1, before, BackboneAveraging(buffers=buffers), after)
    key, counter = "backbone.1.running_mean", "backbone.1.num_batches_tracked"
    own, end = before.ends[0], after.ends[0]
    assert not torch.equal(own["a"][key], own["b"][key])
    if buffers == "local":
        assert all(torch.equal(own[name][k], end[name][k]) for name in "ab" for k in (key, counter))
    elif buffers == "average":
        expected = (8 * own["a"][key] + 24 * own["b"][key]) / 32
        for name in "ab":
            torch.testing.assert_close(end[name][key], expected)
            assert end[name][counter] == 6  # the maximum of 2 and 6 batches
    else:
        assert all(torch.equal(end[name][key], torch.zeros(5)) and end[name][counter] == 0 for name in "ab")
    assert torch.equal(end["a"]["backbone.1.weight"], end["b"]["backbone.1.weight"])


@pytest.mark.parametrize("optimizer_state", ["keep", "reset"])
def test_momenta(optimizer_state: Any) -> None:
    federation = tiny_federation(participant={"optimizer": sgd(momentum=0.9)})
    fit(federation, tiny_data(evaluated=False), 1, BackboneAveraging(optimizer_state=optimizer_state))
    for local in federation.local.values():
        assert len(local.optimizers[0].state) == (4 if optimizer_state == "keep" else 0)


def test_optimizers_keep_their_parameters() -> None:
    federation = tiny_federation()
    fit(federation, tiny_data(evaluated=False), 2, BackboneAveraging())
    for name, local in federation.local.items():
        held = local.optimizers[0].param_groups[0]["params"]
        assert all(one is other for one, other in zip(held, federation[name].parameters(), strict=True))


# Who shares what


def test_four_architectures_average_where_they_agree() -> None:
    def member(backbone: nn.Module) -> Participant:
        return Participant(backbone, nn.Linear(6, 3), optimizer=sgd())

    federation = Federation(
        {
            "conv": member(ConvBackbone(width=2, out_features=6, image_size=8)),
            "twin": member(ConvBackbone(width=2, out_features=6, image_size=8)),
            "wide": member(ConvBackbone(width=3, out_features=6, image_size=8)),
            "recurrent": member(RecurrentBackbone(input_size=8, hidden_size=4, out_features=6)),
            "flat": member(MLPBackbone(in_features=64, hidden=(5,), out_features=6)),
        }
    )
    images = Examples(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)
    averaging, snapshots = BackboneAveraging(), Snapshots()
    data = FederatedDataModule(dict.fromkeys(federation.members(), images), batch_size=4)
    fit(federation, data, 1, averaging, snapshots)
    twins = next(group for group in averaging.sharing.values() if group.members == ("conv", "twin"))
    end = snapshots.ends[0]
    assert all(torch.equal(end["conv"][key], end["twin"][key]) for key in twins.keys)
    for group in averaging.sharing.values():
        for key in group.keys:
            assert len({tuple(end[name][key].shape) for name in group.members}) == 1
    assert "conv, twin: " in averaging.report
    assert "wide: " in averaging.report
    assert "averaged with nobody" in averaging.report
    assert "flat: head.weight, head.bias stay personal" in averaging.report


def test_the_report_names_tensors_and_bytes() -> None:
    averaging = BackboneAveraging()
    fit(tiny_federation(), tiny_data(evaluated=False), 1, averaging)
    # 5 x 4 weights and 5 biases of 4 bytes are shared, 3 x 5 and 3 stay.
    assert averaging.report.splitlines()[1:] == [
        "  a, b, c: backbone.0.weight, backbone.0.bias, 100 B each way per participant",
        *(f"  {name}: head.weight, head.bias stay personal, 72 B" for name in NAMES),
    ]


def test_bytes_by_hand() -> None:
    snapshots = Snapshots()
    trained = fit(tiny_federation(), tiny_data(), 2, BackboneAveraging(), snapshots)
    # 25 numbers of 4 bytes: up from all three, down to all three; at the start also to the two that copy the first.
    assert snapshots.bytes == [(300, 300 + 200), (300, 300)]
    assert trained.callback_metrics["federation/bytes_up"] == 300
    assert trained.callback_metrics["federation/bytes_down"] == 300


def test_nobody_to_average_with_leaves_bytes_and_weights_alone() -> None:
    members = {"a": tiny_participant(seed=0), "b": tiny_participant(seed=1, shared=()), "c": tiny_participant(seed=2)}
    alone = tiny_participant(seed=1, shared=())
    fit(Federation(members, engine="sequential"), tiny_data(evaluated=False), 2, BackboneAveraging())
    fit(Federation({"b": alone}), FederatedDataModule({"b": examples(16, seed=1)}, batch_size=4), 2)
    assert equal(state_of(members["b"]), state_of(alone))


def test_divergence_is_logged() -> None:
    trained = fit(tiny_federation(), tiny_data(), 1, BackboneAveraging())
    assert trained.callback_metrics["federation/divergence"] > 0


def test_frozen_parameters_are_averaged_like_the_others_and_anchored_by_none() -> None:
    federation = tiny_federation()
    for member in federation.members().values():
        member.backbone.requires_grad_(False)
    averaging = BackboneAveraging(proximal=0.1, server_optimizer=sgd(1.0))
    before, after = backbones_after(averaging, federation)
    assert all(torch.allclose(weights, before[0]) for weights in after)


def test_state_round_trip() -> None:
    averaging = BackboneAveraging(server_optimizer=sgd(1.0, momentum=0.5))
    fit(tiny_federation(), tiny_data(evaluated=False), 1, averaging)
    other = BackboneAveraging(server_optimizer=sgd(1.0, momentum=0.5))
    other.load_state_dict(averaging.state_dict())
    kept, loaded = averaging.state_dict(), other.state_dict()
    assert equal(kept["shared"]["a|b|c"], loaded["shared"]["a|b|c"])
    assert kept["servers"].keys() == loaded["servers"].keys() == {"a|b|c"}


# Refusals


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every_n_rounds": 0}, "every_n_rounds: expected at least 1, got 0"),
        ({"proximal": -0.1}, "proximal: expected a finite weight of at least 0, got -0.1"),
        ({"proximal": float("inf")}, "got inf"),
        ({"proximal": float("nan")}, "got nan"),
        ({"max_update_norm": 0.0}, "max_update_norm: expected a finite norm above 0, got 0.0"),
        ({"max_update_norm": 1.0, "synchronise_start": False}, "with synchronise_start=False the first round has none"),
        ({"weighting": "sample"}, "expected 'samples', 'uniform' or weights by name, got 'sample'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BackboneAveraging(**settings)


def test_nothing_in_common_is_refused_by_name() -> None:
    federation = Federation(
        {"a": tiny_participant(hidden=5), "b": tiny_participant(hidden=6), "c": tiny_participant(hidden=7)}
    )
    with pytest.raises(ValueError, match=r"no two participants share a key.*a offers backbone.0.weight.*c offers"):
        fit(federation, tiny_data(), 1, BackboneAveraging())


def test_a_pattern_that_matches_nothing_is_refused_by_name() -> None:
    federation = Federation(
        {"a": tiny_participant(), "b": tiny_participant(shared=("bakbone",)), "c": tiny_participant()}
    )
    with pytest.raises(ValueError, match=r"participant 'b': shared='bakbone' matches no key.*backbone, head"):
        fit(federation, tiny_data(), 1, BackboneAveraging())


def test_a_missing_weight_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no weight for participant 'c'; it has a, b"):
        fit(tiny_federation(), tiny_data(), 1, BackboneAveraging(weighting={"a": 1.0, "b": 1.0}))


def test_a_negative_weight_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"weighting: expected a finite weight of at least 0 for 'b', got -1.0"):
        fit(tiny_federation(), tiny_data(), 1, BackboneAveraging(weighting={"a": 1.0, "b": -1.0, "c": 1.0}))


def test_shapes_of_one_and_of_many_train_side_by_side() -> None:
    # line(1) shares (1, 1), line(3) shares (1, 3): each finds its like and neither broadcasts.
    members = {f"{name}{width}": line(width, optimizer=sgd(0.01)) for name in "ab" for width in (1, 3)}
    data = {name: values(8, features=int(name[1]), seed=3, dtype=torch.float32) for name in members}
    averaging = BackboneAveraging()
    fit(Federation(members), FederatedDataModule(data, batch_size=4), 2, averaging)
    assert [group.members for group in averaging.sharing.values()] == [("a1", "b1"), ("a3", "b3")]
    for name, member in members.items():
        assert state_of(member)["backbone.weight"].shape == (1, int(name[1]))


# Rules of the user's


def first_state(states: Any, weights: Any) -> Any:
    return states[0]


def test_a_rule_may_hand_back_a_state_itself() -> None:
    # What is shared must not go on changing with the participant whose tensors they are: round 2 does not average.
    averaging, seen = BackboneAveraging(first_state, every_n_rounds=2), Snapshots()
    fit(tiny_federation(), tiny_data(evaluated=False), 3, averaging, seen)
    kept = averaging.state_dict()["shared"]["a|b|c"]
    assert all(torch.equal(seen.ends[1]["a"][key], tensor) for key, tensor in kept.items())
    assert not torch.equal(seen.ends[2]["a"]["backbone.0.weight"], kept["backbone.0.weight"])


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda state: {"backbone.0.bias": state["backbone.0.bias"]}, r"broken a state.*backbone.0.weight.*got None"),
        (lambda state: state | {"backbone.0.bias": torch.zeros(1)}, r"backbone.0.bias of shape.*\(5,\).*got \(\(1,\)"),
        (lambda state: state | {"backbone.0.bias": state["backbone.0.bias"].double()}, "float32.*float64"),
    ],
)
def test_a_rule_that_makes_something_else_is_refused(broken: Any, words: str) -> None:
    def rule(states: Any, weights: Any) -> Any:
        return broken(dict(states[0]))

    rule.__name__ = "broken"
    with pytest.raises(ValueError, match=rf"(?s)Round 0: expected of .*{words}"):
        fit(tiny_federation(), tiny_data(), 1, BackboneAveraging(rule))


@pytest.mark.parametrize("by", ["rule", "server"])
def test_what_is_not_finite_is_given_to_nobody(by: str) -> None:
    def overflowing(states: Any, weights: Any) -> Any:
        return {key: tensor * 1e38 * 1e38 for key, tensor in states[0].items()}

    kinds = {
        "rule": (BackboneAveraging(overflowing), "what overflowing made"),
        "server": (BackboneAveraging(server_optimizer=sgd(float("inf"))), "weighted_mean and the server optimizer"),
    }
    averaging, words = kinds[by]
    federation = tiny_federation()
    with pytest.raises(RuntimeError, match=rf"Round 0: what {words.removeprefix('what ')}.*a, b, c is not finite at"):
        fit(federation, tiny_data(), 2, averaging)
    assert all(torch.isfinite(tensor).all() for tensor in state_of(federation).values())


def test_divergence_by_hand() -> None:
    before, trained = SnapshotsBefore(), BackboneAveraging(weighting="uniform")
    made = fit(tiny_federation(), tiny_data(), 1, before, trained)
    ends = [
        torch.cat([before.ends[0][name][f"backbone.0.{part}"].flatten() for part in ("weight", "bias")])
        for name in NAMES
    ]
    mean = torch.stack(ends).double().mean(dim=0)
    spread = torch.stack([(end - mean).square().sum() for end in ends]).mean().sqrt()
    assert float(made.callback_metrics["federation/divergence"]) == pytest.approx(float(spread / mean.norm()), rel=1e-5)


class Remembering(BackboneAveraging):
    """A subclass whose server keeps a count and a module, by which it scales its averages."""

    def combine(
        self, sent: Mapping[str, Message], asked: Sequence[str], about: About, server: ServerMemory, round_index: int
    ) -> Combined:
        found = super().combine(sent, asked, about, server, round_index)
        state: Any = found.state
        layer = server.kept("layer", lambda: torch.nn.Linear(1, 1))
        server.tensors["rounds"] = server.tensors.get("rounds", 0) + 1
        with torch.no_grad():
            layer.weight.add_(0.01 * server.tensors["rounds"])
            scale = 1 - 0.1 * float(layer.weight.tanh())
        return replace(found, state={key: one * scale for key, one in state.items()})


def test_what_a_subclass_keeps_at_the_server_is_resumed(tmp_path: Path) -> None:
    # The layer's first weights are drawn in combine, whose draws are seeded.
    whole, halves = tiny_federation(), [tiny_federation(), tiny_federation()]
    fit(whole, tiny_data(), 4, Remembering())
    path = tmp_path / "half.ckpt"
    fit(halves[0], tiny_data(), 2, Remembering()).save_checkpoint(path)
    fit(halves[1], tiny_data(), 4, Remembering(), ckpt_path=path)
    assert all(equal(state_of(whole[name]), state_of(halves[1][name])) for name in "abc")
