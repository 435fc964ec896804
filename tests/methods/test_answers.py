"""Predictions and further models of methods: measured as by hand, in a fit and from its checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn

from hetfed_lightning import BackboneAveraging, Context, EnsembleDistillation, Federation, Method, Participant
from hetfed_lightning.callbacks.confusions import examine
from hetfed_lightning.data import Examples
from hetfed_lightning.distillation import ValidationWeighted
from hetfed_lightning.methods.messages import MessageError
from tests.federations import equal, examples, fit, state_of, tiny_data, tiny_federation, tiny_participant, trainer
from tests.methods.own_methods import Common, Nearest

Figures = dict[str, float]
FIGURES = ("loss", "accuracy", "global_loss", "global_accuracy")
Saved = tuple[Path, Federation, Figures, Figures]
"""A checkpoint, the federation that wrote it, its last figures of participants and the federation's."""


def figures(run: L.Trainer, stage: str = "val_") -> Figures:
    """Figures whose tags begin with a stage."""
    return {key: float(one) for key, one in run.callback_metrics.items() if key.startswith(stage)}


def measured(outputs: Tensor, targets: Tensor | None) -> tuple[float, float]:
    """Loss and accuracy by their definitions."""
    assert targets is not None
    right = [float(row.argmax() == target) for row, target in zip(outputs, targets, strict=True)]
    losses = [float(row.logsumexp(0) - row[target]) for row, target in zip(outputs, targets, strict=True)]
    return sum(losses) / len(losses), sum(right) / len(right)


def prototypes_by_hand(federation: Federation, names: str) -> Tensor:
    """Means over everyone's features of each class, shape ``(C, D)``; of untouched weights since the last message."""
    features, targets = [], []
    for place, name in enumerate(names):
        data = examples(12 + 4 * place, seed=place)
        assert data.targets is not None
        features.append(federation[name].backbone(data.inputs))
        targets.append(data.targets)
    found, classes = torch.cat(features), torch.cat(targets)
    return torch.stack([found[classes == one].mean(0) for one in range(3)])


def outputs_by_hand(federation: Federation, name: str, inputs: Any, prototypes: Tensor) -> dict[str, Tensor]:
    """Outputs by what stands behind the dot of a figure's name."""
    participant = federation[name]
    features = participant.backbone(inputs)
    rows = [[-float((one - other).square().sum()) for other in prototypes] for one in features]
    common = 2 * participant.modules_of("Common")["common"](inputs)  # In the second round.
    return {"": torch.tensor(rows), ".network": participant.head(features), ".common": common}


@torch.no_grad()
def figures_by_hand(federation: Federation, names: str, stage: str) -> Figures:
    """All figures of :class:`Nearest` and :class:`Common` on the sets of ``tiny_data``."""
    start = {"val": 100, "test": 200}[stage]
    own = {name: examples(6, seed=start + place) for place, name in enumerate(names)}
    everyone = [own[name] for name in names]
    targets = [one.targets for one in everyone if one.targets is not None]
    inputs = [one.inputs for one in everyone if isinstance(one.inputs, Tensor)]
    pooled = Examples(torch.cat(inputs), torch.cat(targets))
    prototypes, found = prototypes_by_hand(federation, names), {}
    for name in names:
        for scope, data in (("", own[name]), ("global_", pooled)):
            for model, outputs in outputs_by_hand(federation, name, data.inputs, prototypes).items():
                loss, accuracy = measured(outputs, data.targets)
                found[f"{stage}_{scope}loss{model}/{name}"] = loss
                found[f"{stage}_{scope}accuracy{model}/{name}"] = accuracy
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A checkpoint after two rounds with both methods, the trained federation, and the last validation's figures."""
    federation, path = tiny_federation("ab"), tmp_path_factory.mktemp("saved") / "two.ckpt"
    run = fit(federation, tiny_data("ab"), 2, Nearest(), Common())
    run.save_checkpoint(path)
    return path, federation, figures(run), figures(run, "federation/val")


def test_prediction_and_further_models_are_measured_as_by_hand(saved: Saved) -> None:
    _, federation, found, summaries = saved
    by_hand = figures_by_hand(federation, "ab", "val")
    assert len(by_hand) == 2 * 2 * 3 * 2  # Participants, sets, models, figures.
    assert found == pytest.approx(by_hand, abs=1e-5)
    means = {key: one for key, one in summaries.items() if key.endswith("_mean")}
    for key in (f"{figure}{model}" for figure in FIGURES for model in ("", ".network", ".common")):
        mean = (by_hand[f"val_{key}/a"] + by_hand[f"val_{key}/b"]) / 2
        assert means.pop(f"federation/val_{key}_mean") == pytest.approx(mean, abs=1e-5)
    assert not means
    assert by_hand["val_loss/a"] != pytest.approx(by_hand["val_loss.network/a"], abs=1e-2)


def test_a_checkpoint_is_measured_as_the_fit_that_wrote_it(saved: Saved) -> None:
    path, trained, found, _ = saved
    federation, run = tiny_federation("ab"), trainer(1, Nearest(), Common())
    run.validate(federation, datamodule=tiny_data("ab"), ckpt_path=str(path), verbose=False)
    assert figures(run) == found
    run.test(federation, datamodule=tiny_data("ab"), ckpt_path=str(path), verbose=False)
    assert figures(run, "test_") == pytest.approx(figures_by_hand(trained, "ab", "test"), abs=1e-5)


def test_predictions_are_those_of_the_method(saved: Saved) -> None:
    path, trained, *_ = saved
    run = trainer(1, Nearest(), Common())
    found: Any = run.predict(tiny_federation("ab"), datamodule=tiny_data("ab"), ckpt_path=str(path))
    with torch.no_grad():
        prototypes = prototypes_by_hand(trained, "ab")
        for place, (name, batches) in enumerate(zip("ab", found, strict=True)):
            inputs = examples(6, seed=200 + place).inputs
            wanted = outputs_by_hand(trained, name, inputs, prototypes)[""].softmax(1)
            torch.testing.assert_close(torch.cat(batches), wanted, atol=1e-5, rtol=0)


class Rounds(Nearest):
    """Notes what each answer was made from."""

    title = "Nearest"

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, tuple[str, ...], bool]] = set()

    @property
    def state_key(self) -> str:
        return "Nearest"

    def answers(self, inputs: Any, features: Tensor, outputs: Tensor, context: Context) -> dict[str, Tensor]:
        self.seen.add((context.round_index, tuple(context.received), torch.is_grad_enabled()))
        return super().answers(inputs, features, outputs, context)


def test_without_a_checkpoint_nothing_was_received(saved: Saved) -> None:
    method, federation = Rounds(), tiny_federation("ab")
    run = trainer(1, method)
    run.validate(federation, datamodule=tiny_data("ab"), verbose=False)
    assert method.seen == {(0, (), False)}
    assert {key.partition("/")[0] for key in figures(run)} == {
        "val_loss", "val_accuracy", "val_global_loss", "val_global_accuracy",
    }  # fmt: skip
    # And a fit after that begins with nothing either.
    run.fit(federation, datamodule=tiny_data("ab"))
    assert method.carried.state_dict()["server"]["memory"]["a"]["last"]


def test_the_round_is_the_one_that_was_trained_last(saved: Saved) -> None:
    path, *_ = saved
    method = Rounds()
    run = trainer(1, method, Common())
    for evaluate in (run.validate, run.test, run.predict):
        method.seen = set()
        evaluate(tiny_federation("ab"), datamodule=tiny_data("ab"), ckpt_path=str(path))
        assert method.seen == {(1, ("prototypes", "known"), False)}
    fitted = Rounds()
    federation = tiny_federation("ab")
    run = fit(federation, tiny_data("ab"), 3, fitted)
    assert {one[0] for one in fitted.seen} == {0, 1, 2}
    fitted.seen = set()
    run.test(federation, datamodule=tiny_data("ab"), verbose=False)
    assert {one[0] for one in fitted.seen} == {2}


@pytest.mark.filterwarnings("ignore:Be aware that when using")
def test_a_checkpoint_that_lacks_the_method_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = fit(tiny_federation("ab"), tiny_data("ab"), 1, Nearest())
    run.save_checkpoint(tmp_path / "whole.ckpt")
    run.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    for name, told in (("whole", 0), ("weights", 1)):
        again = trainer(1, Nearest())
        again.validate(tiny_federation("ab"), datamodule=tiny_data("ab"), ckpt_path=str(tmp_path / f"{name}.ckpt"))
        assert caplog.text.count("Nearest: the checkpoint has nothing of what it received") == told
        assert ("val_loss.network/a" in figures(again)) is (told == 0)


def test_by_hand_a_participant_is_its_network(saved: Saved) -> None:
    _, federation, *_ = saved
    inputs = examples(6, seed=100).inputs
    wanted = federation["a"](inputs).softmax(1)
    torch.testing.assert_close(federation["a"].predict(inputs), wanted)
    torch.testing.assert_close(federation["a"].predict_step((inputs, None), 0), wanted)


def test_a_resumed_run_has_the_figures_of_one_that_was_never_stopped(saved: Saved) -> None:
    path, *_ = saved
    whole = fit(tiny_federation("ab"), tiny_data("ab"), 3, Nearest(), Common())
    resumed = fit(tiny_federation("ab"), tiny_data("ab"), 3, Nearest(), Common(), ckpt_path=path)
    assert figures(resumed) == figures(whole)
    # A checkpoint of another round is measured by what was received then.
    fresh = trainer(1, Nearest(), Common())
    for run in (whole, fresh):
        run.test(tiny_federation("ab"), datamodule=tiny_data("ab"), ckpt_path=str(path), verbose=False)
    assert figures(whole, "test_") == figures(fresh, "test_")


def test_a_fit_goes_on_after_a_checkpoint_was_measured(tmp_path: Path) -> None:
    federation, methods = tiny_federation("ab"), (Nearest(), Common())
    run = fit(federation, tiny_data("ab"), 2, *methods)
    run.save_checkpoint(tmp_path / "two.ckpt")
    run.test(federation, datamodule=tiny_data("ab"), ckpt_path=str(tmp_path / "two.ckpt"), verbose=False)
    run.fit_loop.max_epochs = 3
    run.fit(federation, datamodule=tiny_data("ab"))
    whole = fit(tiny_federation("ab"), tiny_data("ab"), 3, Nearest(), Common())
    assert figures(run) == figures(whole)


def test_members_of_fleets_answer_by_themselves(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "hetfed_lightning"):
        run = fit(tiny_federation("abc", engine="vmap"), tiny_data(), 2, Nearest())
    assert caplog.text.count("Fleets: evaluated one after another, since Nearest answers for each participant.") == 1
    alone = fit(tiny_federation("abc", engine="sequential"), tiny_data(), 2, Nearest())
    assert figures(run) == pytest.approx(figures(alone), abs=1e-5)
    assert "val_global_loss.network/c" in figures(run)


def test_the_student_has_no_method() -> None:
    federation = tiny_federation("ab", student=tiny_participant(seed=9))
    run = fit(federation, tiny_data("ab"), 1, Nearest())
    assert [key for key in figures(run) if key.endswith("student")] == [
        "val_global_loss/student", "val_global_accuracy/student",
    ]  # fmt: skip


def test_confusions_are_of_the_predictions(saved: Saved) -> None:
    federation = tiny_federation("ab")

    class Looking(L.Callback):
        def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            self.found = examine(trainer, pl_module)

    looking = Looking()
    run = fit(federation, tiny_data("ab"), 1, Nearest(), looking)
    for name in "ab":
        matrix = looking.found.confusions[name]
        assert float(matrix.trace() / matrix.sum()) == pytest.approx(figures(run)[f"val_global_accuracy/{name}"])
    assert any(
        figures(run)[f"val_global_accuracy/{name}"] != figures(run)[f"val_global_accuracy.network/{name}"]
        for name in "ab"
    )


def test_figures_of_further_models_can_be_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    best = ModelCheckpoint(tmp_path, "{epoch}-{val_loss.common/a:.3f}", monitor="val_global_loss.common/b", mode="min")
    ends = EarlyStopping("federation/val_accuracy.common_worst", min_delta=2.0, patience=1, mode="max")
    run = fit(tiny_federation("ab"), tiny_data("ab"), 9, Common(), best, ends, enable_checkpointing=True)
    assert "nobody measures" not in caplog.text
    assert run.current_epoch == 2
    assert [path.name.split("-")[1][:15] for path in tmp_path.glob("*.ckpt")] == ["val_loss.common"]
    with pytest.raises(RuntimeError, match=r"val_los.common/a` which is not available"):
        fit(tiny_federation("ab"), tiny_data("ab"), 1, Common(), EarlyStopping("val_los.common/a"))
    assert "follows 'val_los.common/a', which nobody measures" in caplog.text


class Answers(Common):
    """Answers anything."""

    def __init__(self, found: Any, name: str | None = None) -> None:
        self.found, self.name = found, name

    def modules(self, participant: Participant) -> dict[str, nn.Module]:
        return {}

    exchanges = ()

    def example_loss(self, own: Tensor, *args: Any) -> Tensor:
        return own

    def answers(self, inputs: Any, features: Tensor, outputs: Tensor, context: Context) -> Any:
        return self.found(outputs) if callable(self.found) else self.found


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (torch.zeros(4, 3), r"Round 0: participant 'a': Answers.answers: expected tensors by key, got Tensor"),
        ({"common": [1.0]}, r"participant 'a': Answers.answers: expected a tensor at common, got list"),
        ({"prediction": torch.zeros(4, 2)}, r"expected 'prediction' of shape \(4, 3\).*got shape \(4, 2\) of float32"),
        ({"common": torch.zeros(4, 3, dtype=torch.long)}, r"got shape \(4, 3\) of int64"),
        ({"val.common": torch.zeros(4, 3)}, r"expected a name of letters, digits, '_' and '-', got 'val.common'"),
        ({"": torch.zeros(4, 3)}, r"expected a name of letters"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(found: Any, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        fit(tiny_federation("ab"), tiny_data("ab", eval_batch_size=4), 1, Answers(found))


def test_an_error_in_the_hook_names_it() -> None:
    def fail(_: Tensor) -> None:
        raise KeyError("prototypes")

    with pytest.raises(KeyError) as caught:
        fit(tiny_federation("ab"), tiny_data("ab"), 1, Answers(fail))
    assert "in Round 0: participant 'a': Answers.answers" in caught.value.__notes__


def test_two_methods_have_two_names() -> None:
    methods = (Answers(lambda one: {"prediction": one}, "one"), Answers(lambda one: {"prediction": one}, "other"))
    with pytest.raises(MessageError, match=r"'a': Answers:other.answers: 'prediction' is answered by Answers:one too"):
        fit(tiny_federation("ab"), tiny_data("ab"), 1, *methods)


def test_outputs_that_are_not_finite_are_measured_as_they_are() -> None:
    run = fit(tiny_federation("ab"), tiny_data("ab"), 1, Answers(lambda one: {"sick": one * float("nan")}))
    assert figures(run)["val_loss/a"] > 0
    assert figures(run)["val_loss.sick/a"] != figures(run)["val_loss.sick/a"]


def test_a_forward_of_its_own_is_refused_before_training() -> None:
    class Other(Participant):
        def forward(self, inputs: Any) -> Tensor:
            return super().forward(inputs) * 2

    made = tiny_participant()
    federation = Federation({"a": Other(made.backbone, made.head)})
    with pytest.raises(ValueError, match=r"participant 'a': Nearest.answers takes features.*Other.forward is another"):
        fit(federation, tiny_data("a"), 1, Nearest(), BackboneAveraging())


def test_undefined_figures_are_those_of_the_model() -> None:
    from hetfed_lightning.logs.metric_store import Reduced, tag, undefined_figures

    assert tag("val_accuracy.global", "a", everyone=True) == "val_global_accuracy.global/a"
    assert tag("val_f0.5", "a", everyone=True) == "val_global_f0.5/a"
    nan, known = Reduced(float("nan")), Reduced(1.0)
    found: Mapping[str, Reduced] = {
        "val_loss/a": known, "val_loss.sick/a": nan, "val_f1.sick/a": nan, "val_f1/a": nan,
        "val_global_loss.well/a": known, "val_global_f1.well/a": nan, "val_f0.5/a": nan,
    }  # fmt: skip
    assert list(undefined_figures(found)) == ["val_f1/a", "val_global_f1.well/a", "val_f0.5/a"]


class Opposite(Method):
    """Predicts the least likely class, in place of a network's prediction."""

    exchanges = ()

    def __init__(self, **further: Any) -> None:
        self.further = further

    def answers(self, inputs: Any, features: Tensor, outputs: Tensor, context: Context) -> Any:
        return {"prediction": -outputs, **{name: make(outputs) for name, make in self.further.items()}}


def test_scores_of_teachers_are_those_of_their_networks() -> None:
    with_answers, without = EnsembleDistillation(ValidationWeighted()), EnsembleDistillation(ValidationWeighted())
    one, other = tiny_federation(), tiny_federation()
    run = fit(one, tiny_data(), 3, Opposite(), with_answers)
    plain = fit(other, tiny_data(), 3, without)
    assert equal(state_of(one), state_of(other))
    assert with_answers.state_dict()["scores"] == without.state_dict()["scores"]
    for name in "abc":
        network = figures(run)[f"val_accuracy.network/{name}"]
        assert network == figures(plain)[f"val_accuracy/{name}"] == with_answers.state_dict()["scores"][name]
    assert figures(run)["val_accuracy/a"] != figures(plain)["val_accuracy/a"]


def test_the_network_is_measured_once_if_a_method_names_it_too() -> None:
    run = fit(tiny_federation(), tiny_data(), 1, Opposite(network=lambda outputs: outputs), EnsembleDistillation())
    assert "val_accuracy.network/a" in figures(run)
    with pytest.raises(MessageError, match=r"participant 'a': Opposite.answers: 'network' is the participant's own"):
        fit(tiny_federation(), tiny_data(), 1, Opposite(network=lambda outputs: 2 * outputs), EnsembleDistillation())


def test_without_scores_the_network_is_not_measured_beside_an_answer() -> None:
    assert "val_accuracy.network/a" not in figures(fit(tiny_federation(), tiny_data(), 1, Opposite()))
