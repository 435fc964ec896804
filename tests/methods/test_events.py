"""Events of methods that a user overrides, an end told as a round begins, and results that receivers cannot take."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hetfed_lightning import BackboneAveraging, Combined
from hetfed_lightning.methods.messages import Exchange, MessageError, PerParticipant
from tests.federations import Snapshots, equal, fit, tiny_data, tiny_federation
from tests.methods.test_hook_results import Heads, fitted, with_hooks


class Replaced(Heads):
    """Means of heads take the place of the heads."""

    replaces_state = True

    def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
        return {"head.weight": participant.head.weight}

    def combine(self, sent: Any, *rest: Any) -> Any:
        return Combined({"head.weight": torch.stack([one["head.weight"] for one in sent.values()]).mean(0)})


@pytest.mark.parametrize("event", ["prepare", "on_round_start", "on_round_end"])
def test_an_event_without_super_is_told(event: str) -> None:
    with pytest.raises(RuntimeError, match=rf"^Mine overrides {event} without super\(\).{event}\(trainer, federation"):
        fitted(with_hooks(**{event: lambda *_: None}))


def test_a_setup_without_super_keeps_nothing_of_an_earlier_fit() -> None:
    def nothing(self: Any, trainer: Any, pl_module: Any, stage: str) -> None:
        """A user's own, without super()."""

    averaging = type("Averaging", (BackboneAveraging,), {"setup": nothing})()
    for method in (with_hooks(setup=nothing), averaging):
        fitted(method, 2)
        first = method.carrier
        assert first is not None
        again, anew = tiny_federation(seed=1), tiny_federation(seed=1)
        fit(again, tiny_data(evaluated=False), 2, method)
        fit(anew, tiny_data(evaluated=False), 2, type(method)())
        assert method.carrier is not first
        assert equal(again.state_dict(), anew.state_dict())


def test_events_with_super_are_a_users_own() -> None:
    class Counting(Heads):
        rounds = 0

        def on_round_end(self, trainer: Any, federation: Any, round_index: int) -> None:
            super().on_round_end(trainer, federation, round_index)
            self.rounds += 1

    method = Counting()
    fitted(method, 3)
    assert method.rounds == 3


class EndsEarly(Heads):
    """Tells as a round begins that it is the last."""

    exchanges = (Exchange("start"),)

    def __init__(self, last: int) -> None:
        self.last = last

    def combine(self, sent: Any, *rest: Any) -> Any:
        return Combined(super().combine(sent).state, {}, stop=rest[-1] == self.last)


def test_a_round_whose_beginning_tells_that_it_is_the_last_is_a_whole_one() -> None:
    for last in (0, 1):
        whole, ended = Snapshots(), Snapshots()
        fit(tiny_federation(engine="sequential"), tiny_data(), last + 1, EndsEarly(99), whole)
        trainer = fit(tiny_federation(engine="sequential"), tiny_data(), 5, EndsEarly(last), ended)
        assert trainer.current_epoch == len(ended.ends) == last + 1
        for name, state in whole.ends[-1].items():
            assert equal(ended.ends[-1][name], state)
        assert float(trainer.callback_metrics["federation/bytes_up"]) == 3 * 15 * 4  # 3 heads of 3 x 5 floats
        assert "val_loss/a" in trainer.callback_metrics


def test_a_round_resumed_inside_still_is_the_last(tmp_path: Path) -> None:
    def keeper(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)

    trainer = fit(
        tiny_federation(), tiny_data(evaluated=False), 5, EndsEarly(1), keeper("whole"), enable_checkpointing=True
    )
    assert trainer.current_epoch == 2
    steps = sorted(int(one.stem.partition("=")[2]) for one in tmp_path.glob("whole/*.ckpt"))
    inside = tmp_path / f"whole/step={steps[len(steps) // 2]}.ckpt"  # After the first batch of the second round.
    again = fit(
        tiny_federation(), tiny_data(evaluated=False), 5, EndsEarly(1), keeper("again"), enable_checkpointing=True,
        ckpt_path=inside,
    )  # fmt: skip
    assert again.current_epoch == 2


REPLACED: dict[str, tuple[Any, str]] = {
    "no such tensor": (Combined({"haed.weight": torch.ones(3, 5)}), "no tensor 'haed.weight'; did you mean 'head.we"),
    "another shape": (Combined({"head.weight": torch.ones(1)}), r"of shape \(3, 5\) and torch.float32, as of particip"),
    "complex": (
        Combined({"head.weight": torch.ones(3, 5, dtype=torch.complex64)}),
        r"got shape \(3, 5\) and torch.complex64",
    ),
    "too large": (Combined({"head.weight": torch.full((3, 5), 1e300, dtype=torch.float64)}), "does not hold"),
    "for one": (Combined(PerParticipant({"b": {"head.bias": torch.ones(2)}})), "as of participant 'b', got shape"),
}


@pytest.mark.parametrize("case", REPLACED)
def test_a_result_that_takes_no_place_is_refused(case: str) -> None:
    found, words = REPLACED[case]
    method = type("Mine", (Replaced,), {"combine": lambda *_: found})()
    with pytest.raises(MessageError, match=f"^Round 0: Mine.combine: .*{words}"):
        fitted(method)


def test_who_is_not_finite_after_receive_is_left_out_at_once(caplog: pytest.LogCaptureFixture) -> None:
    def receive(self: Any, participant: Any, data: Any, state: Any, context: Any) -> None:
        if participant.name == "b":
            participant.head.weight.mul_(float("nan"))

    ends = Snapshots()
    with caplog.at_level(logging.WARNING):
        fit(tiny_federation(), tiny_data(evaluated=False), 2, with_hooks(receive=receive), ends)
    assert "Round 0: participant 'b' is left out, its weights are not finite after Mine" in caplog.text
    assert all(one.isfinite().all() for end in ends.ends for one in end["b"].values())


def test_a_parameter_of_a_users_own_takes_its_place_in_a_fleet() -> None:
    def receive(self: Any, participant: Any, data: Any, state: Any, context: Any) -> None:
        participant.head.weight = torch.nn.Parameter(state["x"].clone())

    states = []
    for engine in ("sequential", "batched"):
        federation = tiny_federation(engine=engine)
        fit(federation, tiny_data(evaluated=False), 2, with_hooks(receive=receive))
        states.append(federation["a"].state_dict()["head.weight"])
    torch.testing.assert_close(*states)
