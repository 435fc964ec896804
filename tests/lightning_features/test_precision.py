"""``Trainer(precision=...)`` on a CPU: where which numbers are used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Federation
from hetfed_lightning.distillation import MeanProbabilities, Teachers
from tests.federations import fit, tiny_data, tiny_federation


class Watched(MeanProbabilities):
    """Notes in which numbers the teachers answer and the ensemble is given to the students."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype] = []

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        targets = super().__call__(teachers, temperature)
        self.seen += [teachers.logits.dtype, targets.dtype]
        return targets


@contextmanager
def outputs_of(federation: Federation) -> Iterator[list[torch.dtype]]:
    """Dtypes of the outputs of a participant's head."""
    seen: list[torch.dtype] = []
    hook = federation["a"].head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    yield seen
    hook.remove()


def everything(mode: Any, **settings: Any) -> tuple[Federation, Watched, BackboneAveraging, list[torch.dtype]]:
    """Two rounds with distillation and averaging."""
    federation, watched, averaging = tiny_federation(), Watched(), BackboneAveraging()
    with outputs_of(federation) as seen:
        # The checks before training run without autocast.
        begin = LambdaCallback(on_train_start=lambda trainer, pl_module: seen.clear())
        fit(federation, tiny_data(), 2, EnsembleDistillation(watched, mode=mode), averaging, begin, **settings)
    return federation, watched, averaging, seen


@pytest.mark.parametrize("mode", ["phase", "mixed"])
def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(mode: str) -> None:
    federation, watched, averaging, seen = everything(mode, precision="bf16-mixed")
    assert set(seen) == {torch.bfloat16}
    assert {tensor.dtype for tensor in federation.state_dict().values()} == {torch.float32}
    assert {tensor.dtype for state in averaging.state_dict()["shared"].values() for tensor in state.values()} == {
        torch.float32
    }
    assert set(watched.seen) == {torch.float32}
    states = federation.local["a"].optimizers[0].state_dict()["state"].values()
    assert all(value.dtype == torch.float32 for state in states for value in state.values() if value is not None)


def test_mixed_precision_changes_the_result_a_little() -> None:
    # Not equal: autocast was on. Close: 8 bits of mantissa, and weights in float32.
    full, mixed = (everything("phase", precision=precision)[0] for precision in ("32-true", "bf16-mixed"))
    one, other = (nn.utils.parameters_to_vector(federation.parameters()).detach() for federation in (full, mixed))
    assert 0 < float((one - other).abs().max()) < 0.05


@pytest.mark.parametrize("mode", ["phase", "mixed"])
@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16)])
def test_true_precision_is_used_throughout(mode: str, precision: Any, dtype: torch.dtype) -> None:
    federation, _, averaging, seen = everything(mode, precision=precision)
    assert set(seen) == {dtype}
    assert {tensor.dtype for tensor in federation.state_dict().values()} == {dtype}
    assert {tensor.dtype for state in averaging.state_dict()["shared"].values() for tensor in state.values()} == {dtype}


def test_evaluation_and_prediction_in_mixed_precision() -> None:
    federation, data = tiny_federation("ab"), tiny_data("ab")
    made = fit(federation, data, 1, precision="bf16-mixed")
    found = made.test(federation, datamodule=data, verbose=False)[0]
    assert 0 <= found["test_global_accuracy/a"] <= 1
    predictions = made.predict(federation, datamodule=data)
    assert predictions is not None
    # Probabilities are computed in float32 from outputs of bfloat16.
    sums = predictions[0][0].sum(dim=1)
    assert torch.allclose(sums, torch.ones(6))
