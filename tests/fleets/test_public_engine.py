"""Losses of public examples that depend on outputs alone are computed by the engine of the local steps."""

from typing import Any

import pytest
import torch

from hetfed_lightning import EnsembleDistillation
from hetfed_lightning.fleets.shaping import ShapedEngine
from tests.federations import fit, sgd, state_of, tiny_data, tiny_federation


class ByFeatures(EnsembleDistillation):
    """Distillation with a loss that reads features, too."""

    def example_loss(
        self, own: Any, inputs: Any, features: Any, outputs: Any, target: Any, on: Any, context: Any
    ) -> Any:
        return super().example_loss(own, inputs, features, outputs, target, on, context) + 0 * features.sum(-1)


@pytest.mark.parametrize("mode", ["phase", "mixed"])
@pytest.mark.parametrize(("kind", "quick"), [(EnsembleDistillation, True), (ByFeatures, False)])
def test_distillation_takes_the_engine_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch, mode: Any, kind: type[EnsembleDistillation], quick: bool
) -> None:
    calls = []
    shaped = ShapedEngine.gradients

    def counted(self: ShapedEngine, *args: Any, **settings: Any) -> Any:
        calls.append(type(self))
        return shaped(self, *args, **settings)

    monkeypatch.setattr(ShapedEngine, "gradients", counted)
    found = {}
    for engine in ("sequential", "batched"):
        federation = tiny_federation(engine=engine, participant={"optimizer": sgd(momentum=0.9)})
        fit(federation, tiny_data(), 3, kind(mode=mode, batch_size=4), precision="64-true")
        found[engine] = {name: state_of(federation[name]) for name in "abc"}
    assert set(federation.fleets.chosen.values()) == {"batched"}
    assert bool(calls) is not quick
    for name in "abc":
        torch.testing.assert_close(found["sequential"][name], found["batched"][name], rtol=1e-9, atol=1e-10)
