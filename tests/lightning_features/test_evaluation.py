"""``Trainer.validate``, ``test`` and ``predict`` for a federation: own data, everyone's data, and whose predictions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hetfed_lightning import EnsembleDistillation, Federation, Participant
from hetfed_lightning.data import Examples
from tests.federations import equal, examples, fit, state_of, tiny_data, tiny_federation, tiny_participant, trainer


def accuracy(participant: Participant, data: Any) -> float:
    with torch.no_grad():
        return float((participant.eval()(data.inputs).argmax(1) == data.targets).float().mean())


@pytest.mark.parametrize(("method", "stage"), [("validate", "val"), ("test", "test")])
@pytest.mark.parametrize("trained", [False, True])
def test_everyone_is_measured_on_its_own_data_and_on_everyones(method: str, stage: str, trained: bool) -> None:
    federation, data, made = tiny_federation("ab"), tiny_data("ab"), trainer(1)
    if trained:
        made.fit(federation, datamodule=data)
    found = getattr(made, method)(federation, datamodule=data, verbose=False)[0]
    own = data.data.val if stage == "val" else data.data.test
    everyones = data.data.global_val if stage == "val" else data.data.global_test
    for name, participant in federation.members().items():
        assert found[f"{stage}_accuracy/{name}"] == pytest.approx(accuracy(participant, own[name]))
        assert found[f"{stage}_global_accuracy/{name}"] == pytest.approx(accuracy(participant, everyones))
    both = [found[f"{stage}_accuracy/{name}"] for name in "ab"]
    assert found[f"federation/{stage}_accuracy_mean"] == pytest.approx(sum(both) / 2)
    assert found[f"federation/{stage}_accuracy_worst"] == pytest.approx(min(both))
    assert not any("dataloader_idx" in key for key in found)


def test_evaluating_changes_nothing() -> None:
    federation, made = tiny_federation(), trainer(1)
    before = state_of(federation)
    made.validate(federation, datamodule=tiny_data(), verbose=False)
    made.test(federation, datamodule=tiny_data(), verbose=False)
    made.predict(federation, datamodule=tiny_data())
    assert equal(before, state_of(federation))


def test_a_trained_trainer_validates_as_its_last_round_did() -> None:
    federation, data = tiny_federation(), tiny_data()
    made = fit(federation, data, 2)
    last = {key: float(value) for key, value in made.callback_metrics.items() if key.startswith("val_")}
    found = made.validate(federation, datamodule=data, verbose=False)[0]
    assert last == pytest.approx({key: value for key, value in found.items() if key.startswith("val_")})
    assert found["step"] == 2


def test_a_checkpoint_is_evaluated_in_a_new_process(tmp_path: Path) -> None:
    federation, fresh = tiny_federation(), tiny_federation(participant={"hidden": 5})
    made = fit(federation, tiny_data(), 3)
    made.save_checkpoint(tmp_path / "three.ckpt")
    expected = made.test(federation, datamodule=tiny_data(), verbose=False)
    found = trainer(1).test(fresh, datamodule=tiny_data(), verbose=False, ckpt_path=tmp_path / "three.ckpt")
    assert found == expected
    assert found[0]["step"] == 3


def test_the_student_is_measured_on_everyones_data() -> None:
    federation = tiny_federation("ab", student=tiny_participant(seed=8))
    made = fit(federation, tiny_data("ab"), 1, EnsembleDistillation())
    found = made.test(federation, datamodule=tiny_data("ab"), verbose=False)[0]
    assert federation.student is not None
    expected = accuracy(federation.student, tiny_data("ab").data.global_test)
    assert found["test_global_accuracy/student"] == pytest.approx(expected)
    assert "test_accuracy/student" not in found


def test_participants_without_a_test_set_are_left_out() -> None:
    data = tiny_data("ab", test={"b": examples(6, seed=3)}, global_test=None)
    found = trainer(1).test(tiny_federation("ab"), datamodule=data, verbose=False)[0]
    assert "test_accuracy/b" in found
    assert not any(key.endswith("/a") for key in found)


# Predictions


def probabilities(participant: Participant, data: Any) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = participant.eval()(data.inputs)
    return outputs.softmax(1)


def flat(found: Any) -> list[Tensor]:
    """Predictions of each loader in one tensor."""
    loaders = found if isinstance(found[0], list) else [found]
    return [torch.cat(batches) for batches in loaders]


@pytest.mark.parametrize("trained", [False, True])
def test_everyone_predicts_on_its_own_test_set(trained: bool) -> None:
    federation, data, made = tiny_federation("ab"), tiny_data("ab", eval_batch_size=4), trainer(1)
    if trained:
        made.fit(federation, datamodule=data)
    found = flat(made.predict(federation, datamodule=data))
    for name, predictions in zip("ab", found, strict=True):
        assert torch.allclose(predictions, probabilities(federation[name], data.data.test[name]))


@pytest.mark.parametrize("who", ["b", "student"])
def test_one_model_predicts_on_everyones_test_set(who: str) -> None:
    members = {name: tiny_participant(seed=index) for index, name in enumerate("ab")}
    federation = Federation(members, tiny_participant(seed=5), predict_with=who)
    data = tiny_data("ab")
    (found,) = flat(trainer(1).predict(federation, datamodule=data))
    assert torch.allclose(found, probabilities(federation[who], data.data.global_test))


def test_a_student_predicts_when_nobody_else_is_named() -> None:
    federation, data = tiny_federation("ab", student=tiny_participant(seed=5)), tiny_data("ab")
    (found,) = flat(trainer(1).predict(federation, datamodule=data))
    assert torch.allclose(found, probabilities(federation["student"], data.data.global_test))


def test_one_model_predicts_on_every_test_set_where_none_is_everyones() -> None:
    data = tiny_data("ab", global_test=None)
    federation = tiny_federation("ab", predict_with="a")
    found = flat(trainer(1).predict(federation, datamodule=data))
    for name, predictions in zip("ab", found, strict=True):
        assert torch.allclose(predictions, probabilities(federation["a"], data.data.test[name]))


def test_predictions_come_from_a_checkpoint(tmp_path: Path) -> None:
    federation, fresh = tiny_federation("ab"), tiny_federation("ab")
    fit(federation, tiny_data("ab"), 1).save_checkpoint(tmp_path / "one.ckpt")
    expected = flat(trainer(1).predict(federation, datamodule=tiny_data("ab")))
    found = flat(trainer(1).predict(fresh, datamodule=tiny_data("ab"), ckpt_path=tmp_path / "one.ckpt"))
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("who", "words"),
    [("hospital", r"no participant 'hospital'; there is 'a', 'b'"), ("bb", r"no participant 'bb'; did you mean 'b'\?")],
)
def test_an_unknown_predictor_is_refused(who: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_federation("ab", predict_with=who)


def test_a_student_that_does_not_exist_cannot_predict() -> None:
    with pytest.raises(ValueError, match=r"predict_with: .*student"):
        tiny_federation("ab", predict_with="student")


def test_limit_batches_of_test_and_predict() -> None:
    federation, data = tiny_federation("ab"), tiny_data("ab", eval_batch_size=2)
    found = flat(trainer(1, limit_predict_batches=2).predict(federation, datamodule=data))
    assert [len(predictions) for predictions in found] == [4, 4]
    limited = trainer(1, limit_test_batches=1).test(federation, datamodule=data, verbose=False)[0]
    one = Examples(*data.data.test["a"][:2])
    assert limited["test_accuracy/a"] == pytest.approx(accuracy(federation["a"], one))


def test_the_data_module_may_be_loaded_by_itself_first() -> None:
    data = tiny_data("ab")
    assert data.num_samples("a") == 12
    fit(tiny_federation("ab"), data, 1)
