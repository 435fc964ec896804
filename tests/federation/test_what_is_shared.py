"""What is averaged is alike at all who share it: not numbers of the same key, but weights, and what they compute."""

import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from hetfed_lightning import (
    BackboneAveraging,
    FederatedDataModule,
    Federation,
    Participant,
    ParticipantGroup,
    PrivateAveraging,
)
from hetfed_lightning.participants.inseparable import digest, overlapping, with_unit_directions
from hetfed_lightning.participants.newcomer import inherited_state
from tests.federations import equal, examples, fit, sgd, state_of, tiny_data, tiny_participant
from tests.networks import ADAPTERS, ZOO, Parts, adapted, compiled_by_hand, orthogonal, spectral_norm, tied


def members(make: Callable[[int], Parts], names: Sequence[str] = "abc", **own: Any) -> dict[str, Participant]:
    """Participants that begin with different weights."""
    own = {"optimizer": sgd(0.3)} | own
    return {name: Participant(*make(index), **own) for index, name in enumerate(names)}


@torch.no_grad()
def features(participant: Participant) -> Tensor:
    training = participant.training
    participant.eval()
    found: Tensor = participant.backbone(examples(8, seed=50).inputs)
    participant.train(training)
    return found


@settings(max_examples=10)
@given(
    kind=st.sampled_from([kind for kind in ZOO if kind != "compiled by hand"]),  # It takes a second.
    averaging=st.sampled_from(
        [
            {},
            {"buffers": "average"},
            {"buffers": "reset"},
            {"proximal": 0.5},
            {"server_optimizer": sgd(0.5, momentum=0.5)},
        ]
    ),
    participation=st.sampled_from([1.0, 0.6]),
    engine=st.sampled_from(["sequential", "vmap"]),
)
def test_what_is_averaged_computes_the_same_everywhere(
    kind: str, averaging: dict[str, Any], participation: float, engine: Any
) -> None:
    make, own = ZOO[kind]
    federation = Federation(members(make, **own), participation=participation, engine=engine)
    before = features(federation["a"])
    fit(federation, tiny_data(), 2, BackboneAveraging(**averaging))
    found = [features(one) for one in federation.members().values()]
    assert all(torch.equal(found[0], one) for one in found[1:])
    assert not torch.equal(before, found[0])
    if "tied" in kind:
        heads = [one.head.weight for one in federation.members().values()]
        assert all(torch.equal(heads[0], one) for one in heads)  # type: ignore[arg-type]
        assert all(one.head.weight is one.backbone.last.weight for one in federation.members().values())  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", list(ZOO))
def test_every_kind_is_averaged(kind: str) -> None:
    make, own = ZOO[kind]
    federation = Federation(members(make, **own))
    fit(federation, tiny_data(), 1, BackboneAveraging())
    assert torch.equal(features(federation["a"]), features(federation["c"]))


@pytest.mark.parametrize("buffers", ["local", "average"])
def test_orthogonal_weights_stay_orthogonal(buffers: Any) -> None:
    federation = Federation(members(orthogonal))
    callback = BackboneAveraging(buffers=buffers)
    fit(federation, tiny_data(), 2, callback)
    weight = federation["b"].backbone[0].weight  # type: ignore[index]
    torch.testing.assert_close(weight @ weight.T, torch.eye(4), rtol=0, atol=1e-5)
    assert "base" in str(next(iter(callback.sharing.values())).keys)


@pytest.mark.parametrize("kind", ["spectral norm", "spectral norm, the older"])
def test_a_spectral_norm_is_one_after_averaging(kind: str) -> None:
    federation = Federation(members(ZOO[kind][0], optimizer=sgd(0.1)))
    fit(federation, tiny_data(), 1, BackboneAveraging())
    found = [one for key, one in federation["b"].named_buffers() if key[-2:] in {"_u", "_v"}]
    assert [float(one.double().norm()) for one in found] == pytest.approx([1.0, 1.0], abs=1e-6)
    layer = federation["b"].eval().backbone[0]  # type: ignore[index]
    layer(torch.zeros(1, 4))
    assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(1.0, abs=0.03)


def test_directions_are_brought_to_length_one_and_nothing_else_is() -> None:
    key = "backbone.0.parametrizations.weight.0._u"
    state = {key: torch.tensor([3.0, 4.0]), "backbone.w_u": torch.tensor([3.0, 4.0]), "backbone.x": torch.ones(2)}
    found = with_unit_directions(state)
    torch.testing.assert_close(found[key], torch.tensor([0.6, 0.8]))
    assert found["backbone.w_u"] is state["backbone.w_u"]
    older = with_unit_directions({"w_orig": torch.ones(2, 2), "w_u": torch.tensor([0.0, 5.0]), "w_v": torch.zeros(2)})
    assert torch.equal(older["w_u"], torch.tensor([0.0, 1.0]))
    assert torch.equal(older["w_v"], torch.zeros(2))


def test_private_averages_of_a_spectral_norm_are_refused() -> None:
    private = PrivateAveraging(noise_multiplier=1.0, max_update_norm=0.1, delta=0.01, noise_seed=3)
    with pytest.raises(ValueError, match=r"PrivateAveraging: .*participant 'a'.*_u.* follows private data"):
        fit(Federation(members(spectral_norm)), tiny_data(), 1, private)


# Tied weights


def test_a_tied_head_is_said_to_be_shared(caplog: pytest.LogCaptureFixture) -> None:
    callback = BackboneAveraging()
    with caplog.at_level(logging.INFO, "hetfed_lightning"):
        fit(Federation(members(tied)), tiny_data(), 1, callback)
    assert "a: head.weight is one tensor with backbone.last.weight, shared like it" in callback.report
    assert "a: head.bias stay personal" in callback.report
    assert "a, b, c: head.weight is one tensor with backbone.last.weight, which is shared" in caplog.text


@pytest.mark.parametrize("kind", ["tied", "spectral norm", "orthogonal"])
def test_a_fleet_trains_them_as_one_after_another_does(kind: str) -> None:
    def run(engine: Any) -> dict[str, Tensor]:
        federation = Federation(members(lambda _: ZOO[kind][0](0), optimizer=sgd(0.1)), engine=engine)
        fit(federation, tiny_data(), 2)
        return state_of(federation)

    found, expected = run("vmap"), run("sequential")
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5)


def test_a_tied_tensor_travels_once() -> None:
    federation = Federation(members(tied, shared=("*",)))
    assert "head.weight" not in federation["a"].shared_keys()
    made = fit(federation, tiny_data(), 1, BackboneAveraging())
    numbers = sum(parameter.numel() for parameter in federation["a"].parameters())
    assert int(made.callback_metrics["federation/bytes_up"]) == 3 * 4 * numbers


def test_the_server_optimizer_steps_a_head_that_is_tied_to_what_is_not_shared() -> None:
    # With a rate of 0 the server keeps what it has: nobody moves, whatever was learned.
    federation = Federation(members(tied, shared=("head",)))
    start = federation["a"].head.weight.detach().clone()  # type: ignore[operator]
    fit(federation, tiny_data(), 2, BackboneAveraging(server_optimizer=sgd(0.0)))
    assert all(torch.equal(one.head.weight, start) for one in federation.members().values())  # type: ignore[arg-type]


def test_the_proximal_term_holds_a_tied_head() -> None:
    def distance(mu: float) -> float:
        federation = Federation(members(tied, "ab", shared=("head",), optimizer=sgd(0.01)), engine="sequential")
        start = federation["a"].head.weight.detach().clone()  # type: ignore[operator]
        fit(federation, tiny_data("ab"), 1, BackboneAveraging(proximal=mu))
        return float((federation["a"].head.weight.detach() - start).norm())  # type: ignore[operator]

    assert distance(30.0) < 0.9 * distance(0.0)


def test_one_memory_of_two_parameters_is_refused() -> None:
    made = tiny_participant()
    head = nn.Linear(5, 5, bias=False)
    body = nn.Linear(5, 5, bias=False)
    body.weight = nn.Parameter(head.weight.data[:3])
    participant = Participant(nn.Sequential(made.backbone, head), body)
    words = r"participant 'a': head\.weight and backbone\.1\.weight lie in the same memory"
    with pytest.raises(ValueError, match=words):
        fit(Federation({"a": participant}), tiny_data("a"), 1)


def test_neighbours_in_one_memory_do_not_overlap() -> None:
    whole = torch.zeros(12)
    assert overlapping({"a": whole[:4], "b": whole[4:8], "c": whole[8:], "same": whole}) == ("a", "same")
    assert overlapping({"a": whole[:4], "b": whole[4:8], "c": whole[8:]}) is None
    assert overlapping({"a": whole[:8], "b": whole[2:4], "c": whole[6:7]}) == ("a", "b")
    assert overlapping({"one": whole, "other": whole}) is None


# Adapters over frozen weights


def adapters(**bases: int) -> Federation:
    """Participants that share adapters alone, over frozen weights of a seed each."""
    return Federation(
        {
            name: Participant(*adapted(index, base=base), shared=ADAPTERS, optimizer=sgd(0.3))
            for index, (name, base) in enumerate(bases.items())
        }
    )


def test_adapters_over_the_same_frozen_weights_are_averaged_and_those_over_others_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    federation, callback = adapters(a=1, b=1, c=2), BackboneAveraging()
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        fit(federation, tiny_data(), 1, callback)
    assert [group.members for group in callback.sharing.values()] == [("a", "b")]
    assert torch.equal(features(federation["a"]), features(federation["b"]))
    assert "a, b and c are not averaged with one another from backbone.0.down.weight on" in caplog.text
    assert "such as backbone.0.base.weight" in caplog.text
    assert (
        "c: backbone.0.down.weight, backbone.0.up.weight are averaged with nobody (over other frozen weights than a, b)"
        in callback.report
    )


def test_adapters_over_different_frozen_weights_alone_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"nothing to average.*lies? over frozen weights that differ.*backbone\.0\.base"
    ):
        fit(adapters(a=1, b=2), tiny_data("ab"), 1, BackboneAveraging())


def test_frozen_weights_that_thaw_stay_what_they_began_as(tmp_path: Path) -> None:
    # After a round the base is trained, by each alone: resumed, it differs, though adapters go on together.
    class Thaws(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                for one in pl_module.members().values():
                    one.requires_grad_(True)

    def made() -> Federation:
        federation = adapters(a=1, b=1)
        for one in federation.members().values():
            one.optimizer_factory = lambda _, one=one: torch.optim.SGD(one.parameters(), lr=0.1)
        return federation

    def run(rounds: int, **more: Any) -> Federation:
        federation, saves = made(), ModelCheckpoint(tmp_path / str(rounds), filename="last")
        fit(federation, tiny_data("ab"), rounds, BackboneAveraging(), Thaws(), saves, enable_checkpointing=True, **more)
        return federation

    halfway = run(2)
    assert not torch.equal(features(halfway["a"]), features(halfway["b"]))
    resumed = run(3, ckpt_path=tmp_path / "2" / "last.ckpt")
    key = "backbone.0.up.weight"
    assert torch.equal(resumed["a"].state_dict()[key], resumed["b"].state_dict()[key])


def test_adapters_above_shared_weights_of_other_shapes_are_averaged_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def make(seed: int) -> Parts:
        below = nn.Linear(4, 4 + seed).requires_grad_(False)
        return nn.Sequential(below, nn.AdaptiveAvgPool1d(4), nn.Linear(4, 5)), nn.Linear(5, 3)

    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        fit(Federation(members(make, "ab")), tiny_data("ab"), 1, BackboneAveraging())
    assert (
        "a and b average backbone.2.weight above frozen weights whose shapes differ, such as backbone.0" in caplog.text
    )


def test_a_spectral_norm_that_begins_apart_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"synchronise_start=False\): what a, b, c share has .*a vector of a spectral norm"
    ):
        fit(Federation(members(lambda _: spectral_norm(0))), tiny_data(), 1, BackboneAveraging(synchronise_start=False))


def test_what_no_optimizer_steps_is_frozen_too() -> None:
    def makes(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([one for one in parameters if 2 in one.shape], lr=0.1)  # those of rank 2

    federation = adapters(a=1, b=2)
    for one in federation.members().values():
        one.requires_grad_(True).optimizer_factory = makes
    with pytest.raises(ValueError, match="over frozen weights that differ"):
        fit(federation, tiny_data("ab"), 1, BackboneAveraging())


def test_a_shared_head_over_different_frozen_backbones_is_refused() -> None:
    federation = Federation({name: tiny_participant(seed=index, shared=("head",)) for index, name in enumerate("ab")})
    for one in federation.members().values():
        one.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match=r"over frozen weights that differ, such as backbone\.0\.bias"):
        fit(federation, tiny_data("ab"), 1, BackboneAveraging())


def test_a_frozen_head_of_ones_own_is_no_base_of_a_shared_backbone() -> None:
    federation = Federation({name: tiny_participant(seed=index) for index, name in enumerate("ab")})
    for one in federation.members().values():
        one.head.requires_grad_(False)
    fit(federation, tiny_data("ab"), 1, BackboneAveraging())
    assert torch.equal(features(federation["a"]), features(federation["b"]))


def test_orthogonal_weights_that_begin_apart_are_averaged_by_those_with_one_base_alone() -> None:
    callback = BackboneAveraging(synchronise_start=False)
    with pytest.raises(ValueError, match=r"nothing to average.*such as backbone\.0\.parametrizations\.weight\.0\.base"):
        fit(Federation(members(orthogonal)), tiny_data(), 1, callback)
    alike = Federation(members(lambda seed: orthogonal(0)))
    fit(alike, tiny_data(), 1, callback)
    assert torch.equal(features(alike["a"]), features(alike["c"]))


def test_a_newcomer_takes_over_nothing_over_other_frozen_weights() -> None:
    newcomer = adapters(late=1)["late"]
    assert inherited_state(newcomer, adapters(a=1, b=2).members())[1] == ["a"]
    assert inherited_state(newcomer, adapters(a=3, b=2).members())[1] == []


def test_a_newcomer_takes_over_the_base_of_orthogonal_weights() -> None:
    there, newcomer = Federation(members(orthogonal)), Participant(*orthogonal(9))
    fit(there, tiny_data(), 1, BackboneAveraging())
    state, kin = inherited_state(newcomer, there.members())
    newcomer.load_state_of(state)
    assert kin == list("abc")
    assert torch.equal(features(newcomer), features(there["a"]))


def test_digests_tell_values_shapes_and_dtypes_apart() -> None:
    one = torch.arange(6.0)
    others = [one + 1, one.view(2, 3), one.double(), one.half()]
    assert len({digest(tensor) for tensor in [one, *others]}) == 5
    assert digest(one) == digest(torch.stack([one, one], 1)[:, 0])  # Where it lies in memory says nothing.
    assert digest(torch.empty(3, device="meta")) == ""


# Compiled by hand


def test_keys_of_a_network_compiled_by_hand_are_its_own() -> None:
    participant, plain = (Participant(*compiled_by_hand(seed)) for seed in (1, 0))
    assert list(participant.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in participant.named_parameters()] == [name for name, _ in plain.named_parameters()]
    participant.load_state_dict(plain.state_dict())
    assert equal(participant.state_dict(), plain.state_dict())
    older = {key.replace("backbone.", "backbone._orig_mod."): tensor + 1 for key, tensor in plain.state_dict().items()}
    participant.load_state_dict(older)
    assert torch.equal(participant.state_dict()["backbone.0.bias"], plain.state_dict()["backbone.0.bias"] + 1)
    assert list(copy.deepcopy(participant).state_dict()) == list(plain.state_dict())


def test_it_stays_compiled_and_reads_checkpoints_of_both_kinds(tmp_path: Path) -> None:
    def run(make: Callable[[int], Parts], rounds: int, **more: Any) -> Federation:
        federation = Federation(members(make, "ab"), engine="sequential")
        saves = ModelCheckpoint(tmp_path / str(len(list(tmp_path.iterdir()))), filename="{epoch}", save_top_k=-1)
        fit(federation, tiny_data("ab"), rounds, BackboneAveraging(), saves, enable_checkpointing=True, **more)
        return federation

    straight = run(compiled_by_hand, 2)
    assert type(straight["b"].backbone).__name__ == "OptimizedModule"
    first = tmp_path / "0" / "epoch=0.ckpt"
    resumed = run(lambda seed: (nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3)), 2, ckpt_path=first)
    assert equal(state_of(straight), state_of(resumed))
    back = run(compiled_by_hand, 2, ckpt_path=first)
    assert equal(state_of(straight), state_of(back))
    alone = Participant.load_from_checkpoint(
        tmp_path / "0" / "epoch=1.ckpt", "b", **dict(zip(("backbone", "head"), compiled_by_hand(1), strict=True))
    )
    assert equal(state_of(alone), state_of(straight["b"]))


def test_a_group_of_one_compiled_by_hand() -> None:
    group = ParticipantGroup(3, Participant(*compiled_by_hand(1), optimizer=sgd()))
    federation = Federation({"clinic": group})
    fit(federation, tiny_data(list(federation.members())), 1, BackboneAveraging())
    assert torch.equal(features(federation["clinic_0"]), features(federation["clinic_2"]))


def test_compiled_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backbone: it went through torch\.compile already"):
        Participant(*compiled_by_hand(1), compile=True)


# Laws of averaging


@settings(max_examples=5)
@given(
    order=st.permutations(range(4)),
    names=st.lists(st.text("abcxyz", min_size=1, max_size=3), min_size=4, max_size=4, unique=True),
)
def test_names_and_their_order_change_nothing(order: list[int], names: list[str]) -> None:
    # Whole sets as batches: names choose the order of examples, and that is all that they choose here.
    def shared(names: Sequence[str], order: Sequence[int]) -> dict[str, Tensor]:
        federation = Federation({names[place]: tiny_participant(seed=0) for place in order}, engine="sequential")
        data = FederatedDataModule(
            {names[place]: examples(8 + 4 * place, seed=place) for place in order}, batch_size=64
        )
        fit(federation, data, 2, BackboneAveraging(max_share=1.0))
        return federation[names[0]].state_of(federation[names[0]].shared_keys())

    found, expected = shared(names, order), shared("abcd", range(4))
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-6)


def test_a_parametrization_with_a_buffer_of_ones_own_travels_as_one() -> None:
    class Shifted(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.register_buffer("shift", torch.tensor(shift))

        def forward(self, weight: Tensor) -> Tensor:
            return weight + self.get_buffer("shift")

    def make(seed: int) -> Parts:
        layer = nn.Linear(4, 5)
        nn.utils.parametrize.register_parametrization(layer, "weight", Shifted(float(seed)))
        return nn.Sequential(layer), nn.Linear(5, 3)

    federation = Federation(members(make))
    fit(federation, tiny_data(), 1, BackboneAveraging())
    assert torch.equal(features(federation["a"]), features(federation["c"]))


def test_buffers_of_a_personal_parametrization_stay_personal() -> None:
    head = parametrizations.orthogonal(nn.Linear(3, 3))
    participant = Participant(nn.Linear(4, 3), head)
    assert participant.averaged_keys() == ["backbone.weight", "backbone.bias"]
    assert "head.parametrizations.weight.0.base" in Participant(nn.Linear(4, 3), head, shared=("*",)).averaged_keys()
