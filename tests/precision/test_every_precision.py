"""Everything that a federation does, in every precision of the Trainer that a CPU offers."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch import Tensor, nn

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, FederatedDataModule, Federation, Participant
from hetfed_lightning.backbones import ConvBackbone, MLPBackbone, RecurrentBackbone
from hetfed_lightning.data import Examples
from hetfed_lightning.distillation import MeanProbabilities, Teachers
from hetfed_lightning.metrics import state_divergence
from hetfed_lightning.tasks import as_task
from tests.federations import (
    SnapshotsBefore,
    equal,
    fit,
    line,
    sgd,
    state_of,
    tiny_data,
    tiny_federation,
    tiny_participant,
    values,
)
from tests.precision.halves import float16

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning")

PRECISIONS: dict[str, tuple[Callable[[], dict[str, Any]], torch.dtype, torch.dtype]] = {
    # The Trainer's setting, the dtype of the parameters, the dtype of the teachers' knowledge.
    "16-mixed": (lambda: {"plugins": [float16()]}, torch.float32, torch.float32),
    "bf16-mixed": (lambda: {"precision": "bf16-mixed"}, torch.float32, torch.float32),
    "16-true": (lambda: {"precision": "16-true"}, torch.float16, torch.float32),
    "bf16-true": (lambda: {"precision": "bf16-true"}, torch.bfloat16, torch.float32),
    "64-true": (lambda: {"precision": "64-true"}, torch.float64, torch.float64),
}
NAMES = ("cnn", "cnn_too", "mlp", "gru")


def images(count: int, seed: int) -> Examples:
    """Images of 8 by 8 in float32, whatever the precision; the class is the brightest of the first three pixels."""
    inputs = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Examples(inputs, inputs.flatten(1)[:, :3].argmax(dim=1))


def four_architectures() -> Federation:
    torch.manual_seed(0)
    backbones = (
        ConvBackbone(width=2, out_features=6, image_size=8),
        ConvBackbone(width=2, out_features=6, image_size=8),
        MLPBackbone(in_features=64, hidden=(8,), out_features=6),
        RecurrentBackbone(out_features=6, input_size=8, hidden_size=6),
    )
    participants = {n: Participant(b, nn.Linear(6, 3)) for n, b in zip(NAMES, backbones, strict=True)}
    # Two runs are compared bit by bit, and "auto" chooses by time, which a busy machine measures differently.
    return Federation(participants, seed=3, engine="sequential")


def their_data() -> FederatedDataModule:
    return FederatedDataModule(
        {name: images(16 + 8 * index, index) for index, name in enumerate(NAMES)},
        val={name: images(6, 50 + index) for index, name in enumerate(NAMES)},
        test={name: images(6, 60 + index) for index, name in enumerate(NAMES)},
        global_val="pooled",
        global_test="pooled",
        public=images(12, 70),
        batch_size=8,
    )


class Watched(MeanProbabilities):
    """Notes in which numbers the teachers answer and the ensemble is given to the students."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __call__(self, teachers: Teachers, temperature: float) -> Tensor:
        targets = super().__call__(teachers, temperature)
        self.seen |= {teachers.logits.dtype, targets.dtype}
        return targets


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> tuple[Callable[[], dict[str, Any]], torch.dtype, torch.dtype]:
    settings, dtype, knowledge = PRECISIONS[request.param]
    computing = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(request.param, dtype)
    try:
        for network, inputs in ((nn.Conv2d(1, 1, 3), torch.ones(1, 1, 4, 4)), (nn.GRU(2, 2), torch.ones(1, 1, 2))):
            outputs = network.to(computing)(inputs.to(computing))
            (outputs[0] if isinstance(outputs, tuple) else outputs).sum().backward()
    except RuntimeError as error:
        pytest.skip(f"this CPU's torch has no kernel for {computing}: {error}")
    return settings, dtype, knowledge


def test_all_that_a_federation_does(
    precision: tuple[Callable[[], dict[str, Any]], torch.dtype, torch.dtype], tmp_path: Path
) -> None:
    settings, dtype, knowledge = precision
    watched, before, averaging = Watched(), SnapshotsBefore(), BackboneAveraging(weighting="uniform")
    distilling = EnsembleDistillation(watched, batch_size=6, mode="mixed", start_round=0)
    federation, data = four_architectures(), their_data()
    made = fit(federation, data, 2, before, distilling, averaging, **settings())
    # Everyone is trained, nobody had to be left out, and the numbers are those that were asked for.
    assert federation.guard.quarantined == {}
    assert {tensor.dtype for tensor in federation.state_dict().values() if tensor.is_floating_point()} == {dtype}
    assert watched.seen == {knowledge}
    for name in NAMES:
        assert not equal(before.starts[0][name], state_of(federation[name]))
        assert 0 < float(made.callback_metrics[f"val_loss/{name}"]) < 3
    # Averages are made in float64 and arrive in the parameters' dtype.
    for key in federation["cnn"].shared_keys():
        mean = (before.ends[1]["cnn"][key].double() + before.ends[1]["cnn_too"][key].double()) / 2
        # Exactly, but for float64, which has nothing wider to be summed in.
        exact = 1e-15 if dtype == torch.float64 else 0
        torch.testing.assert_close(federation["cnn"].state_dict()[key], mean.to(dtype), rtol=0, atol=exact)
    # Tested, asked, saved.
    found = made.test(federation, datamodule=data, verbose=False)[0]
    assert all(0 <= found[f"test_global_accuracy/{name}"] <= 1 for name in NAMES)
    predictions = made.predict(federation, datamodule=data)
    assert predictions is not None
    assert predictions[0][0].dtype == knowledge
    own = federation["gru"].predict(images(5, 80).inputs)
    torch.testing.assert_close(own.sum(dim=1), torch.ones(5, dtype=knowledge))
    # Resumed after a round of two.
    short, path = four_architectures(), tmp_path / "one.ckpt"
    after_one = LambdaCallback(
        on_train_epoch_end=lambda trainer, _: trainer.current_epoch == 0 and trainer.save_checkpoint(path)
    )
    again = EnsembleDistillation(batch_size=6, mode="mixed", start_round=0)
    fit(short, their_data(), 2, again, BackboneAveraging(weighting="uniform"), after_one, **settings())
    assert equal(state_of(short), state_of(federation))
    resumed = four_architectures()
    again = EnsembleDistillation(batch_size=6, mode="mixed", start_round=0)
    fit(resumed, their_data(), 2, again, BackboneAveraging(weighting="uniform"), ckpt_path=path, **settings())
    assert equal(state_of(resumed), state_of(federation))


# ---------------------------------------------------------------------------------- figures in enough bits


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel", "regression"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_are_computed_in_float32_at_least(task: Any, dtype: torch.dtype) -> None:
    width = 1 if task == "binary" else 3
    outputs = torch.linspace(-2, 2, 4 * width).reshape(4, width).to(dtype).requires_grad_()
    target = {
        "multiclass": torch.tensor([0, 1, 2, 0]),
        "binary": torch.tensor([0, 1, 1, 0]),
        "multilabel": torch.ones(4, 3, dtype=torch.long),
        "regression": torch.ones(4, 3, dtype=dtype),
    }[task]
    loss = as_task(task).loss(outputs, target)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    wide = as_task(task).loss(outputs.detach().double(), target)
    torch.testing.assert_close(loss.double(), wide, rtol=1e-6, atol=0)
    loss.backward()
    assert outputs.grad is not None
    assert outputs.grad.dtype == dtype


def test_metrics_are_summed_in_float32() -> None:
    # In bfloat16 a sum of errors stops growing at 256 times their size.
    tested = values(1200, seed=1)
    data = FederatedDataModule({"a": values(8)}, test={"a": tested}, batch_size=4)
    federation = Federation({"a": line()})
    made = fit(federation, data, 1, precision="bf16-true")
    found = made.test(federation, datamodule=data, verbose=False)[0]
    inputs, target = tested.batch(torch.arange(1200))
    assert target is not None
    outputs = federation["a"].predict(inputs)
    errors = (outputs.double() - target.squeeze(1).bfloat16().double()).abs()
    assert found["test_mae/a"] == pytest.approx(float(errors.mean()), rel=1e-5)
    assert found["test_loss/a"] == pytest.approx(float(errors.square().mean()), rel=1e-5)


def test_a_number_that_is_logged_keeps_its_bits() -> None:
    class Logging(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("number", 1.2345)
            return super().training_step(batch, batch_idx)

    made = tiny_participant()
    federation = Federation({"a": Logging(made.backbone, made.head, optimizer=sgd())})
    found = fit(federation, tiny_data("a"), 1, precision="bf16-true").callback_metrics
    assert float(found["number/a"]) == pytest.approx(1.2345, rel=1e-6)


def test_what_a_network_makes_of_its_own_is_in_the_precision_before_training_too() -> None:
    class Offset(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.nn.functional.linear(inputs, torch.ones(5, 4))

    federation = Federation({"a": Participant(Offset(), nn.Linear(5, 3), shared=(), optimizer=sgd())})
    fit(federation, tiny_data("a"), 1, precision="bf16-true")
    assert federation["a"].head.get_parameter("weight").dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_predict_takes_inputs_in_any_precision(dtype: torch.dtype) -> None:
    participant = tiny_participant().to(dtype)
    inputs = torch.randn(3, 4, dtype=torch.float64)
    assert torch.equal(participant.predict(inputs), participant.predict(inputs.to(dtype)))


def test_divergence_is_measured_in_float32() -> None:
    torch.manual_seed(0)
    narrow = [{"w": torch.randn(1000).bfloat16()} for _ in range(3)]
    wide = [{"w": state["w"].double()} for state in narrow]
    centre = {"w": torch.randn(1000).bfloat16()}
    assert state_divergence(narrow, centre=centre) == pytest.approx(
        state_divergence(wide, centre={"w": centre["w"].double()}), rel=1e-6
    )


def test_a_server_optimizer_computes_in_float32(tmp_path: Path) -> None:
    averaging = BackboneAveraging(server_optimizer=lambda p: torch.optim.Adam(p, lr=0.01), proximal=0.1)
    federation = tiny_federation()
    made = fit(federation, tiny_data(), 2, averaging, precision="16-true")
    (server,) = averaging.state_dict()["servers"].values()
    assert {value.dtype for state in server["state"].values() for value in state.values()} == {torch.float32}
    assert {tensor.dtype for tensor in federation.state_dict().values()} == {torch.float16}
    assert all(torch.isfinite(tensor).all() for tensor in federation.state_dict().values())
    made.save_checkpoint(tmp_path / "x.ckpt")


# --------------------------------------------------------------------------------- Adam where eps is zero


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def test_an_eps_of_zero_is_told_before_training_and_does_what_was_said(caplog: pytest.LogCaptureFixture) -> None:
    federation = Federation({"a": tiny_participant(optimizer=adam), "b": tiny_participant(seed=1, optimizer=sgd())})
    # A gradient of zero: the last feature is always 0.
    data = tiny_data("ab", evaluated=False)
    for own_set in data.data.train.values():
        assert isinstance(own_set, Examples)
        assert isinstance(own_set.inputs, Tensor)
        own_set.inputs[:, 3] = 0
    with caplog.at_level(logging.WARNING):
        fit(federation, data, 1, precision="16-true")
    assert "participant 'a': eps=1e-08 of its Adam is zero in float16" in caplog.text
    assert "participant 'b': eps" not in caplog.text
    assert federation.guard.quarantined == {"a": "its weights are not finite"}


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "32-true"])
def test_where_eps_is_a_number_nothing_is_said(precision: Any, caplog: pytest.LogCaptureFixture) -> None:
    fit(Federation({"a": tiny_participant(optimizer=adam)}), tiny_data("a"), 1, precision=precision)
    assert "eps" not in caplog.text


def test_the_default_optimizer_works_in_float16() -> None:
    federation = Federation({"a": tiny_participant(optimizer=None)})
    fit(federation, tiny_data("a"), 3, precision="16-true")
    assert federation.local["a"].optimizers[0].param_groups[0]["eps"] == 1e-3
    assert federation.guard.quarantined == {}
    fit(federation := Federation({"a": tiny_participant(optimizer=None)}), tiny_data("a"), 1)
    assert federation.local["a"].optimizers[0].param_groups[0]["eps"] == 1e-8
