"""Who waits borrows: memory holds what everyone has once, and nothing that is learned differs for it by a bit."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from hetfed_lightning import (
    BackboneAveraging,
    FederatedCallback,
    FederatedDataModule,
    Federation,
    Participant,
    ParticipantGroup,
    Phase,
)
from hetfed_lightning.data import Examples
from hetfed_lightning.shared_storage.copy_on_write import Loan
from tests.federations import (
    Snapshots,
    equal,
    fit,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
    trainer,
)
from tests.resume.runs import Run, checkpoints, same_run

# The run that is resumed keeps no checkpoints; the one before it did.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning")

TEN = tuple(f"s_{i:02d}" for i in range(10))


def group(count: int = 10, *, participation: float = 0.3, engine: Any = "auto", **settings: Any) -> Federation:
    settings.setdefault("optimizer", sgd(momentum=0.9))
    members = {"s": ParticipantGroup(count, tiny_participant(**settings))}
    return Federation(members, participation=participation, seed=3, engine=engine)


def apart(federation: Federation) -> Federation:
    """Everyone with a head of its own: what several have alike is held once in a file, and by who loads it."""
    with torch.no_grad():
        for index, participant in enumerate(federation.members().values()):
            for parameter in participant.head.parameters():
                parameter.add_(index)
    return federation


def data(**settings: Any) -> Any:
    return tiny_data(TEN, evaluated=settings.pop("evaluated", False), **settings)


def bytes_held(*modules: nn.Module) -> int:
    """Bytes of the parameters' storages, each counted once."""
    storages = [p.untyped_storage() for module in modules for p in module.parameters()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def backbone_and_head() -> tuple[int, int]:
    one = tiny_participant()
    return bytes_held(one.backbone), bytes_held(one.head)


@pytest.fixture
def never_lent(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Switches lending off: who would borrow is given a copy."""

    def copied(participant: Participant, loan: Loan) -> None:
        for key, tensor in loan.tensors.items():
            participant.state_dict(keep_vars=True)[key].data = tensor.clone()

    def switch() -> None:
        monkeypatch.setattr(Participant, "borrow", copied)

    return switch


# One participant


def test_nobodys_write_changes_another() -> None:
    one, other = tiny_participant(), tiny_participant()
    loan = Loan(one.state_of(one.shared_keys()))
    one.borrow(loan)
    other.borrow(loan)
    assert bytes_held(one.backbone, other.backbone) == bytes_held(one.backbone)
    before, key = state_of(other), "backbone.0.weight"
    one.load_state_of({key: torch.zeros(5, 4)})
    assert equal(state_of(other), before)
    one.borrow(loan)
    one.load_state_dict({name: torch.ones_like(tensor) for name, tensor in before.items()})
    assert equal(state_of(other), before)
    one.borrow(loan)
    one.double()
    assert one.borrows(key) is None
    assert other.get_parameter(key).dtype == torch.float32
    one.float().borrow(loan)
    one.materialise()
    with torch.no_grad():
        one.get_parameter(key).fill_(3)
    assert equal(state_of(other), before)
    assert one.borrows(key) is None
    assert other.borrows(key) is loan


def test_what_is_borrowed_has_no_gradient_and_the_parameter_stays() -> None:
    one = tiny_participant()
    weight = one.get_parameter("backbone.0.weight")
    weight.grad = torch.ones_like(weight)
    one.borrow(Loan({"backbone.0.weight": torch.zeros(5, 4)}))
    assert weight.grad is None
    assert one.get_parameter("backbone.0.weight") is weight
    assert not weight.any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_borrows_nothing(copied: Callable[[Any], Any]) -> None:
    one = tiny_participant(optimizer=None)
    loan = Loan(one.state_of(one.shared_keys()))
    one.borrow(loan)
    other = copied(one)
    assert other.loans == []
    with torch.no_grad():
        other.get_parameter("backbone.0.weight").zero_()
    assert one.get_parameter("backbone.0.weight").any()


# Training


class Held(FederatedCallback):
    """Bytes of everyone's parameters as each round opens and after it has ended."""

    phase = Phase.MONITORING

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.ended: list[int] = []
        self.spare: list[int] = []

    def on_round_start(self, trainer: L.Trainer, federation: Any, round_index: int) -> None:
        self.opened.append(bytes_held(federation))

    def on_round_end(self, trainer: L.Trainer, federation: Any, round_index: int) -> None:
        self.ended.append(bytes_held(federation))
        self.spare.append(len(federation.spare._given) + sum(map(len, federation.spare._spare.values())))


@pytest.mark.parametrize("groups", [True, False])
def test_memory_holds_the_backbone_once_and_once_more_for_who_trains(groups: bool) -> None:
    # A fleet keeps a stack beside, for as many as train at once.
    engine = "sequential"
    federation = group(engine=engine) if groups else tiny_federation(TEN, participation=0.3, engine=engine)
    backbone, head = backbone_and_head()
    if groups:
        assert bytes_held(federation) == backbone + 10 * head
    held = Held()
    fit(federation, data(), 5, BackboneAveraging(), held)
    assert held.opened == [4 * backbone + 10 * head] * 5
    assert held.ended == [backbone + 10 * head] * 5
    assert held.spare[1:] == [3 * 2] * 4  # two tensors for each of the three who train


def test_who_has_yet_to_join_keeps_what_it_has() -> None:
    federation, snapshots = group(joins_at=0), Snapshots()
    late, before = federation["s_04"], state_of(federation["s_04"])
    late.joins_at = 2
    fit(federation, data(), 3, BackboneAveraging(), snapshots)
    assert [equal(end["s_04"], before) for end in snapshots.ends] == [True, True, False]
    assert late.borrows("backbone.0.weight") is federation["s_05"].borrows("backbone.0.weight")


def test_nothing_is_lent_where_everybody_trains() -> None:
    federation, held = group(participation=1.0, engine="sequential"), Held()
    fit(federation, data(), 2, BackboneAveraging(), held)
    backbone, head = backbone_and_head()
    assert held.opened == held.ended == [10 * (backbone + head)] * 2


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "a start of their own": ({}, {"synchronise_start": False}),
    "every second round": ({}, {"every_n_rounds": 2}),
    "FedProx": ({}, {"proximal": 0.1}),
    "FedAvgM": ({}, {"server_optimizer": sgd(0.7, momentum=0.9)}),
    "reset": ({}, {"optimizer_state": "reset"}),
    "everything is shared": ({"shared": ("*",)}, {}),
    "newcomers": ({"joins_at": 2}, {}),
}


def mixed(participant: dict[str, Any]) -> Federation:
    """A group and two that stand alone, one of another width."""
    joins_at = participant.pop("joins_at", 0)
    members: dict[str, Participant | ParticipantGroup] = {
        "s": ParticipantGroup(8, tiny_participant(**participant)),
        "s_3": tiny_participant(seed=3, joins_at=joins_at, **participant),
        "t_8": tiny_participant(seed=4, joins_at=joins_at, optimizer=torch.optim.Adam, **participant),
        "t_9": tiny_participant(seed=5, hidden=6, **participant),
    }
    return Federation(members, participation=0.4, seed=1)


SLOW = {"every second round", "FedAvgM", "a start of their own", "reset"}
"""Left to `-m slow`: others lend as they do."""


@pytest.mark.parametrize("case", [pytest.param(one, marks=pytest.mark.slow) if one in SLOW else one for one in CASES])
def test_lending_changes_no_bit(case: str, never_lent: Callable[[], None]) -> None:
    participant, averaging = CASES[case]
    names = (*(f"s_{i}" for i in range(8)), "t_8", "t_9")
    ends, logged = [], []
    for lent in (True, False):
        if not lent:
            never_lent()
        federation, snapshots = mixed(dict(participant)), Snapshots()
        made = fit(federation, tiny_data(names), 5, BackboneAveraging(**averaging), snapshots)
        ends.append([state_of(federation), *(end[name] for end in snapshots.ends for name in names)])
        logged.append({key: float(value) for key, value in made.callback_metrics.items()})
    assert all(equal(*both) for both in zip(*ends, strict=True))
    assert {k: v for k, v in logged[0].items() if v == v} == {k: v for k, v in logged[1].items() if v == v}  # noqa: PLR0124


class Raving(Participant):
    """Its loss is not a number in the rounds named."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        host: Any = self.host
        return loss * float("nan") if host.current_round in {1, 2} and self.name in {"s_01", "s_05", "s_06"} else loss


def test_quarantine_changes_no_bit(never_lent: Callable[[], None]) -> None:
    ends = []
    for lent in (True, False):
        if not lent:
            never_lent()
        one = tiny_participant()
        raving = Raving(one.backbone, one.head, optimizer=sgd())
        federation, snapshots = Federation({"s": ParticipantGroup(10, raving)}, participation=0.5, seed=2), Snapshots()
        fit(federation, data(), 4, BackboneAveraging(), snapshots)
        quarantined = federation.guard.quarantined
        ends.append([state_of(federation), *(end[name] for end in snapshots.ends for name in TEN)])
    assert all(equal(*both) for both in zip(*ends, strict=True))
    assert not quarantined  # of the last round
    assert all(torch.isfinite(tensor).all() for tensor in ends[0][0].values())


# Checkpoints


def test_a_file_holds_the_backbone_once_and_so_does_memory_after_it(tmp_path: Path) -> None:
    def wide() -> Federation:
        return apart(group(hidden=400))

    wide_data = data(evaluated=True)
    backbone, head = bytes_held(wide()["s_00"].backbone), bytes_held(wide()["s_00"].head)
    federation = wide()
    made = trainer(2, BackboneAveraging(optimizer_state="reset"), enable_checkpointing=True, default_root_dir=tmp_path)
    made.fit(federation, datamodule=wide_data)
    (file,) = tmp_path.rglob("*.ckpt")
    assert file.stat().st_size < 2 * backbone + 10 * head + 80_000  # and not 10 backbones

    again = wide()
    made = trainer(2, BackboneAveraging(), default_root_dir=tmp_path)
    made.validate(again, datamodule=wide_data, ckpt_path=file, verbose=False)
    assert equal(state_of(again), state_of(federation))
    assert bytes_held(again) == backbone + 10 * head


def test_loading_a_state_aliases_nothing_of_whom_it_came_from() -> None:
    one, other = group(), group(seed=1)
    fit(one, data(), 1, BackboneAveraging())
    other.load_state_dict(one.state_dict())
    before = state_of(one)
    assert equal(before, state_of(other))
    backbone, head = backbone_and_head()
    assert bytes_held(one, other) == 2 * (backbone + 10 * head)
    fit(other, data(), 1, BackboneAveraging())
    assert equal(state_of(one), before)


def test_loading_what_is_not_shared_ends_the_sharing() -> None:
    apart, federation = tiny_federation(TEN), group()
    federation.load_state_dict(apart.state_dict())
    assert equal(state_of(federation), state_of(apart))


@pytest.mark.parametrize("every", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_resume_is_exact(tmp_path: Path, every: int) -> None:
    def setup() -> Any:
        return group(), data(evaluated=True), [BackboneAveraging(server_optimizer=sgd(0.7, momentum=0.9))]

    straight = Run(setup, 4, every=checkpoints(tmp_path, every_n_train_steps=every))
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) >= 3
    for file in files:
        assert not same_run(straight, Run(setup, 4, resume=file)), file


def test_a_resumed_run_lends_again(tmp_path: Path) -> None:
    def setup() -> Any:
        return apart(group(engine="sequential")), data(), [BackboneAveraging()]

    Run(setup, 2, every=checkpoints(tmp_path))
    (file, *_) = sorted(tmp_path.glob("*.ckpt"))
    resumed, held = group(engine="sequential"), Held()
    fit(resumed, data(), 4, BackboneAveraging(), held, ckpt_path=file)
    backbone, head = backbone_and_head()
    assert held.opened == [4 * backbone + 10 * head] * len(held.opened)
    assert held.ended == [backbone + 10 * head] * len(held.ended)


# Moves


def test_a_move_keeps_shared_what_is_shared() -> None:
    federation = group().double()
    backbone, head = backbone_and_head()
    assert bytes_held(federation) == 2 * (backbone + 10 * head)
    fit(federation, data(), 2, BackboneAveraging(), precision="64-true")
    assert bytes_held(federation) == 2 * (backbone + 10 * head)
    before = state_of(federation)
    federation.float()
    assert bytes_held(federation) == backbone + 10 * head
    fit(federation, data(), 2, BackboneAveraging())
    assert not torch.equal(
        federation["s_00"].get_parameter("backbone.0.weight").double(), before["participants.s_00.backbone.0.weight"]
    )


def test_a_borrowed_buffer_that_was_moved_is_one_for_each() -> None:
    def normed() -> Participant:
        return Participant(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), nn.Linear(5, 3))

    federation = Federation({"a": normed(), "b": normed()})
    key = "backbone.1.num_batches_tracked"
    loan = Loan({key: torch.tensor(5)}, "ab")
    for participant in federation.members().values():
        participant.borrow(loan)
    federation.to("cpu")
    federation.materialise("a")
    federation["a"].get_buffer(key).add_(1)
    assert (int(federation["a"].get_buffer(key)), int(federation["b"].get_buffer(key))) == (6, 5)


# Ten thousand


@pytest.mark.slow
def test_ten_thousand_participants_take_the_memory_of_their_heads(tmp_path: Path) -> None:
    one = Participant(nn.Linear(784, 200), nn.Linear(200, 10), optimizer=sgd())
    backbone, head = bytes_held(one.backbone), bytes_held(one.head)
    federation = apart(Federation({"s": ParticipantGroup(10_000, one)}, participation=0.01, engine="sequential"))
    held = Held()
    inputs, targets = torch.randn(8, 784), torch.arange(8)
    same = Examples(inputs, targets)
    sets = FederatedDataModule(dict.fromkeys(federation.participants, same), batch_size=4)
    made = fit(federation, sets, 3, BackboneAveraging(), held)
    assert held.opened == [101 * backbone + 10_000 * head] * 3
    assert held.ended == [backbone + 10_000 * head] * 3
    made.save_checkpoint(tmp_path / "many.ckpt")
    assert (tmp_path / "many.ckpt").stat().st_size < 2 * backbone + 10_000 * (head + 4_000)
    again = Federation({"s": ParticipantGroup(10_000, one)}, participation=0.01, engine="sequential")
    fit(again, sets, 4, BackboneAveraging(), held, ckpt_path=tmp_path / "many.ckpt")
    assert held.ended[-1] == backbone + 10_000 * head
