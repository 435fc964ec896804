"""A round that distils and averages: the averages are of what was distilled."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from hetfed_lightning import (
    BackboneAveraging,
    Combined,
    EnsembleDistillation,
    Federation,
    FederationView,
    Method,
    Participant,
)
from hetfed_lightning.distillation import ClassPriorWeighted, ValidationWeighted
from tests.federations import fit, sgd, state_of, tiny_data, tiny_federation

WRITTEN = Path(__file__).parents[2] / "data/before_the_protocol"
RATE, TEMPERATURE = 0.5, 2.0


def test_a_round_of_both_is_that_of_a_loop_by_hand() -> None:
    def linear(seed: int) -> Participant:
        torch.manual_seed(seed)
        return Participant(nn.Linear(4, 3, bias=False), shared=("*",), optimizer=sgd(RATE))

    federation, data = Federation({"a": linear(1), "b": linear(2)}), tiny_data("ab", batch_size=16)
    weights = [state_of(federation["a"])["backbone.weight"].double()] * 2  # Averages begin alike.
    callbacks = [EnsembleDistillation(temperature=TEMPERATURE, batch_size=10), BackboneAveraging(weighting="uniform")]
    fit(federation, data, 2, *callbacks, precision="64-true")
    public = data.public_inputs(torch.arange(10)).double()
    for _ in range(2):
        for place, name in enumerate("ab"):
            own: Any = data.data.train[name]
            weights[place] = stepped(weights[place], own.inputs.double(), F.one_hot(own.targets, 3).double(), 1.0)
        targets = torch.stack([(public @ one.T / TEMPERATURE).softmax(1) for one in weights]).mean(0)
        weights = [stepped(one, public, targets, TEMPERATURE) for one in weights]
        weights = [torch.stack(weights).mean(0)] * 2
    for name in "ab":
        torch.testing.assert_close(state_of(federation[name])["backbone.weight"], weights[0], rtol=0, atol=1e-12)


def stepped(weights: Tensor, inputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Weights after a step down ``T^2`` times the cross-entropy of outputs softened by T, a mean over examples."""
    slope = temperature * ((inputs @ weights.T / temperature).softmax(1) - targets) / len(inputs)
    return weights - RATE * slope.T @ inputs


def test_a_method_without_exchanges_starts_nobody_elses() -> None:
    class Levels(Method):
        """Sets all weights to one value before what follows it is collected."""

        exchanges = ()

        def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
            with torch.no_grad():
                for place, participant in enumerate(federation.members().values()):
                    for parameter in participant.parameters():
                        parameter.fill_(place)

    federation = tiny_federation(participant={"shared": ("*",)})
    fit(federation, tiny_data(), 1, Levels(), BackboneAveraging(weighting="uniform"))
    assert all(torch.equal(one, torch.ones_like(one)) for one in state_of(federation["a"]).values())


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning")
def test_a_run_goes_on_from_a_checkpoint_of_when_distillation_was_no_method() -> None:
    # Written inside of the second round, whose local steps distil: scores, sizes and the targets of the round.
    federation = tiny_federation("ab", seed=3)
    callbacks = [
        EnsembleDistillation(ValidationWeighted(), mode="mixed", batch_size=5),
        EnsembleDistillation(ClassPriorWeighted(), name="second", batch_size=5),
        BackboneAveraging(),
    ]
    checkpoint = WRITTEN / "in_the_second_round.ckpt"
    fit(federation, tiny_data("ab"), 3, *callbacks, precision="64-true", ckpt_path=checkpoint)
    for key, expected in load_file(WRITTEN / "after_three_rounds.safetensors").items():
        torch.testing.assert_close(federation.state_dict()[key], expected, rtol=0, atol=1e-10, msg=key)


def test_targets_are_not_kept_beyond_their_round() -> None:
    callback = EnsembleDistillation()
    fit(tiny_federation(), tiny_data(), 1, callback)
    saved = callback.state_dict()
    assert saved["targets"] is None
    assert saved["samples"] == {"a": 12, "b": 16, "c": 20}
    assert saved["scores"].keys() == set("abc")
    again = EnsembleDistillation()
    again.load_state_dict(saved)
    assert again.state_dict() == saved


def test_outputs_on_the_public_set_are_those_of_a_fleet_at_once_for_any_method(monkeypatch: Any) -> None:
    class Sending(Method):
        """Sends what it finds, and keeps what was sent."""

        def __init__(self) -> None:
            self.sent: dict[str, Tensor] = {}

        def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
            return {"outputs": data.public_outputs}

        def combine(self, sent: Any, *args: Any) -> Any:
            self.sent = {name: one["outputs"] for name, one in sent.items()}
            return Combined(None)

    federation, data, sending = tiny_federation(engine="vmap"), tiny_data(evaluated=False), Sending()
    asked: list[tuple[str, ...]] = []
    outputs = type(federation.fleets).outputs

    def noted(self: Any, names: Any, inputs: Any) -> Any:
        asked.append(tuple(names))
        return outputs(self, names, inputs)

    monkeypatch.setattr(type(federation.fleets), "outputs", noted)
    fit(federation, data, 1, sending)
    assert asked == [("a", "b", "c")]
    assert sending.sent.keys() == set("abc")
    with torch.no_grad():
        for name, found in sending.sent.items():
            torch.testing.assert_close(found, federation[name](data.public_inputs(torch.arange(10))))
