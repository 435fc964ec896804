"""A participant whose numbers run away: named, left out, put back; the others go on as if it were not there."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    Federation,
    FederationView,
    Participant,
    Phase,
    RunRecord,
)
from hetfed_lightning.federation.quarantine import TooFewParticipantsError
from hetfed_lightning.logs.run_record import Record
from tests.federations import Snapshots, equal, fit, sgd, tiny_data, tiny_federation

pytestmark = pytest.mark.promise("finite")

NAMES = ("a", "b", "c", "d")
NAN = float("nan")


class Faulty(Participant):
    """Goes wrong in one round, where and how the test says."""

    where = "nowhere"
    when = 1

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if self.current_epoch == self.when:
            if self.where == "loss":
                self.log("train_loss", loss * NAN)
                return None
            if self.where == "gradient":
                return loss * NAN
            if self.where == "weights":
                with torch.no_grad():
                    next(self.parameters()).view(-1)[0] = float("inf")
            if self.where == "large weights":
                with torch.no_grad():
                    next(self.parameters()).fill_(1e13)
        return loss

    def forward(self, inputs: Any) -> Tensor:
        outputs = super().forward(inputs)
        public = len(inputs) == 10 and not self.training and self.host is not None
        if self.where == "logits" and public and self._trainer is not None and self.current_epoch == self.when:
            outputs = outputs * NAN
        if self.where == "large logits" and public and self._trainer is not None and self.current_epoch == self.when:
            outputs = torch.full_like(outputs, 1e35)
        return outputs


class Rows(FederatedCallback):
    """Keeps what is logged, round by round."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.rows.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    def of(self, tag: str) -> list[float | None]:
        return [row.get(tag) for row in self.rows]


def member(name: str, where: str = "nowhere") -> Faulty:
    torch.manual_seed(ord(name))
    made = Faulty(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3), optimizer=sgd(momentum=0.9))
    made.where = where
    return made


def federation(where: str = "nowhere", faulty: str = "b") -> Federation:
    return Federation({name: member(name, where if name == faulty else "nowhere") for name in NAMES})


SAID = {
    "loss": "its loss is not finite",
    "logits": "its predictions on the public set are not finite",
    "large weights": r"its weights are as large as [\d.]+e\+\d\d at backbone\.0\.weight, beyond 1e\+12",
    "large logits": r"its predictions on the public set are as large as 1e\+35, beyond 1e\+30",
}


@pytest.mark.parametrize("where", ["weights", "gradient", "loss", "logits", "large weights", "large logits"])
def test_one_of_four_is_named_left_out_and_put_back(
    where: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    made, seen, rows = federation(where), Snapshots(), Rows()
    distilling = [EnsembleDistillation()] if "logits" in where else []
    record = RunRecord(str(tmp_path))
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        trained = fit(made, tiny_data(NAMES), 3, *distilling, BackboneAveraging(), seen, rows, record)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    reason = SAID.get(where, "its weights are not finite")
    assert re.match(f"Round 1: participant 'b' is left out, {reason}; it returns", warning)
    for end in seen.ends:
        assert all(torch.isfinite(tensor).all() for state in end.values() for tensor in state.values())
    # It is back at its start, but for the backbone that the others made; its head did not move.
    assert torch.equal(seen.ends[1]["b"]["head.weight"], seen.starts[1]["b"]["head.weight"])
    assert torch.equal(seen.ends[1]["b"]["backbone.0.weight"], seen.ends[1]["a"]["backbone.0.weight"])
    assert not torch.equal(seen.ends[2]["b"]["head.weight"], seen.ends[1]["b"]["head.weight"])
    assert rows.of("quarantined/b") == [None, 1.0, 0.0]  # it is back in round 2
    (left_out,) = Record.read(tmp_path).left_out
    assert (left_out["round"], left_out["participant"]) == (2, "b")  # counted from 1, as on the axis of charts
    assert re.fullmatch(reason, left_out["reason"])
    assert trained.callback_metrics["federation/quarantined"] == 0


@pytest.mark.parametrize("phase", [Phase.GUARD, Phase.DISTILLATION, Phase.AVERAGING])
def test_what_a_callback_spoils_reaches_nobody(phase: Phase) -> None:
    class Spoiler(FederatedCallback):
        """Writes a NaN into b's shared weights, at a round's end."""

        def on_round_end(self, trainer: Any, federation: FederationView, round_index: int) -> None:
            with torch.no_grad():
                next(federation["b"].parameters()).view(-1)[0] = NAN

    Spoiler.phase = phase
    made, seen = federation(), Snapshots()
    fit(made, tiny_data(NAMES), 2, Spoiler(), BackboneAveraging(), seen)
    for end in seen.ends:
        assert all(torch.isfinite(tensor).all() for state in end.values() for tensor in state.values())
        assert torch.equal(end["b"]["backbone.0.weight"], end["a"]["backbone.0.weight"])
    assert [up for up, _ in seen.bytes] == [3 * 100, 3 * 100]


@pytest.mark.parametrize("where", ["weights", "gradient", "loss"])
def test_the_others_average_among_themselves(where: str) -> None:
    class Absent(Faulty):
        """Takes part in nothing in the faulty round."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if self.current_epoch == self.when else super().training_step(batch, batch_idx)

    ends = []
    for kind in (Faulty, Absent):
        made, seen = federation(where), Snapshots()
        if kind is Absent:
            torch.manual_seed(ord("b"))
            absent = Absent(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), nn.Linear(5, 3), optimizer=sgd(momentum=0.9))
            made = Federation(made.members() | {"b": absent})
        fit(made, tiny_data(NAMES), 2, BackboneAveraging(), seen)
        ends.append(seen.ends[1])
    for name in "acd":
        assert equal(ends[0][name], ends[1][name])
    up = 3 * 100  # three of four send 25 numbers of 4 bytes
    assert seen.bytes[1][0] == up


def test_its_momentum_starts_afresh() -> None:
    made = federation("weights")
    fit(made, tiny_data(NAMES), 2, BackboneAveraging())
    assert {name: bool(local.optimizers[0].state) for name, local in made.local.items()} == {
        "a": True, "b": False, "c": True, "d": True,
    }  # fmt: skip


def test_its_predictions_teach_nobody() -> None:
    # With d's predictions broken, the others learn what they learn from an ensemble of three.
    class Weighted(EnsembleDistillation):
        asked: list[tuple[str, ...]]

        def public_loss(
            self, federation: FederationView, participant: Participant, indices: Tensor, augment: Any = None
        ) -> Tensor:
            assert self.agreement is not None
            self.asked.append((participant.name or "", *self.agreement[0]))
            return super().public_loss(federation, participant, indices, augment)

    callback = Weighted()
    callback.asked = []
    fit(federation("logits", "d"), tiny_data(NAMES), 2, callback)
    assert all(asked[1:] == ("a", "b", "c", "d") for asked in callback.asked[:4])
    # What was quarantined in the same breath learns nothing either.
    assert callback.asked[4:] == [(name, "a", "b", "c") for name in "abc"]


@pytest.mark.parametrize("where", ["weights", "loss"])
def test_nobody_left_is_an_error_with_names(where: str) -> None:
    made = Federation({name: member(name, where) for name in NAMES})
    with pytest.raises(RuntimeError, match=r"Round 1: no participant is left to go on with \(a: its .*d: its .*Lower"):
        fit(made, tiny_data(NAMES), 2, BackboneAveraging())


class Unlucky(FederatedCallback):
    """Spoils another participant in every round, its weights by turns with NaN and infinity."""

    phase = Phase.GUARD

    def on_round_end(self, trainer: Any, federation: FederationView, round_index: int) -> None:
        name = list(federation.members())[round_index % len(federation.members())]
        with torch.no_grad():
            federation[name].head.weight.fill_((NAN, float("inf"))[round_index % 2])  # type: ignore[operator]


@pytest.mark.parametrize("weighting", ["samples", {"a": 1.0, "b": 0.0, "c": 1.0, "d": 1.0}])
def test_twenty_rounds_in_each_of_which_another_is_spoilt(weighting: Any, tally: Any) -> None:
    made, seen = federation(), Snapshots()
    for one in made.members().values():
        one.shared = ("*",)
    fit(made, tiny_data(NAMES), 20, Unlucky(), EnsembleDistillation(), BackboneAveraging(weighting=weighting), seen)
    finite = [
        all(torch.isfinite(tensor).all() for state in end.values() for tensor in state.values()) for end in seen.ends
    ]
    tally(tried=20, held=sum(finite))
    assert all(finite)


def test_too_few_left_is_an_error_with_names() -> None:
    made = Federation({name: member(name, "weights" if name in "bc" else "nowhere") for name in NAMES})
    made.min_participants = 3
    with pytest.raises(
        TooFewParticipantsError,
        match=r"Round 1: 2 of 4 participants are left to go on with, min_participants=3 are needed \(b: .*c: its",
    ):
        fit(made, tiny_data(NAMES), 2, BackboneAveraging())
    made = Federation({name: member(name, "weights" if name in "bc" else "nowhere") for name in NAMES})
    made.min_participants = 2
    fit(made, tiny_data(NAMES), 2, BackboneAveraging())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_participants": 0}, "min_participants: expected at least 1, got 0"),
        ({"min_participants": 5}, r"Round 0 has 4 of 4 participants \(a, b, c, d; .*min_participants=5 are needed"),
        ({"min_participants": 3, "participation": 0.5}, r"Round 0 has 2 of 4 .*participation=0\.5 say so"),
    ],
)
def test_a_quorum_that_is_never_met_is_refused_before_training(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit(Federation({name: member(name) for name in NAMES}, **settings), tiny_data(NAMES), 2)


def test_a_quorum_counts_who_has_joined() -> None:
    made = Federation({name: member(name) for name in NAMES}, min_participants=4)
    made["d"].joins_at = 2
    with pytest.raises(ValueError, match=r"Round 0 has 3 of 4 participants \(a, b, c; joins_at"):
        fit(made, tiny_data(NAMES), 3)
    made["d"].joins_at, made["c"].leaves_at = 0, 2
    fit(made, tiny_data(NAMES), 2)  # ends before c leaves
    with pytest.raises(ValueError, match=r"Round 2 has 3 of 4 participants \(a, b, d"):
        fit(made, tiny_data(NAMES), 3)


def test_no_teacher_left_is_an_error_with_names() -> None:
    made = Federation({name: member(name, "logits") for name in NAMES})
    with pytest.raises(RuntimeError, match=r"Round 1: no teacher has finite predictions.*a, b, c, d"):
        fit(made, tiny_data(NAMES), 2, EnsembleDistillation())


@pytest.mark.promise("unsaved")
def test_a_checkpoint_holds_the_last_finite_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Step 8 is in the middle of round 1, where b is not finite and nobody has looked yet.
    made, seen = federation("weights"), Snapshots()
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=8, save_top_k=-1)
    with caplog.at_level(logging.WARNING, "hetfed_lightning"):
        fit(made, tiny_data(NAMES), 2, BackboneAveraging(), seen, saving, enable_checkpointing=True)
    assert "participant 'b' is not finite; the checkpoint holds its state" in caplog.text
    checkpoint = torch.load(tmp_path / "step=8.ckpt", weights_only=True)
    state = checkpoint["state_dict"]
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    own = {key.removeprefix("participants.b."): value for key, value in state.items() if ".b." in key}
    assert equal(own, seen.starts[1]["b"])
    others = {key.removeprefix("participants.a."): value for key, value in state.items() if ".a." in key}
    assert not equal(others, seen.starts[1]["a"])
    assert [bool(saved["state"]) for saved in checkpoint["optimizer_states"]] == [True, False, True, True]


@pytest.mark.promise("unsaved")
def test_never_finite_is_never_saved(tmp_path: Path) -> None:
    made = tiny_federation()
    with torch.no_grad():
        made["c"].head.weight.fill_(NAN)  # type: ignore[operator]
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=1)
    with pytest.raises(RuntimeError, match="participant 'c' has no finite state to save; nothing was written"):
        fit(made, tiny_data(), 1, saving, enable_checkpointing=True)
    assert not list(tmp_path.glob("*.ckpt"))
