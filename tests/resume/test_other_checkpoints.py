"""Checkpoints of other federations are refused by name, and one participant can be taken out of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Federation, Participant
from tests.federations import equal, examples, fit, state_of, tiny_data, tiny_federation, tiny_participant, trainer


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def saved(federation: Federation, path: Path, *callbacks: L.Callback, rounds: int = 1) -> Path:
    """A checkpoint of a federation trained for a round."""
    fit(federation, tiny_data(tuple(federation.members())), rounds, *callbacks).save_checkpoint(path)
    return path


def loader() -> DataLoader[Any]:
    return DataLoader(examples(8), batch_size=4)


@pytest.fixture
def abc(tmp_path: Path) -> Path:
    return saved(tiny_federation("abc"), tmp_path / "abc.ckpt")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("ab", r"it has a, b, c\. Missing here: c\. Use the participants that it was made with"),
        ("abcd", r"it has a, b, c\. Not in it: d\. Use the participants"),
        ("abx", r"Missing here: c\. Not in it: x\. If 'c' was renamed to 'x', rename it back"),
        ("xyz", r"Missing here: a, b, c\. Not in it: x, y, z\."),
    ],
)
@pytest.mark.promise("other checkpoint")
def test_other_participants_are_told_by_name(names: str, words: str, abc: Path) -> None:
    federation = tiny_federation(names)
    before = state_of(federation)
    with pytest.raises(ValueError, match=words):
        fit(federation, tiny_data(tuple(names)), 2, ckpt_path=abc)
    assert equal(before, state_of(federation))


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        (tiny_participant, None, r"it has a, b, student\. Missing here: student"),
        (None, tiny_participant, r"it has a, b\. Not in it: student"),
    ],
)
@pytest.mark.promise("other checkpoint")
def test_a_student_on_one_side_alone_is_told(
    there: Callable[[], Participant] | None, here: Callable[[], Participant] | None, words: str, tmp_path: Path
) -> None:
    path = saved(tiny_federation("ab", student=there and there()), tmp_path / "s.ckpt", EnsembleDistillation())
    with pytest.raises(ValueError, match=words):
        fit(tiny_federation("ab", student=here and here()), tiny_data("ab"), 2, EnsembleDistillation(), ckpt_path=path)


@pytest.mark.promise("other checkpoint")
def test_a_checkpoint_of_no_federation_is_refused(tmp_path: Path) -> None:
    alone = trainer(1)
    alone.fit(tiny_participant(), loader(), loader())
    alone.save_checkpoint(tmp_path / "alone.ckpt")
    with pytest.raises(ValueError, match="was not made by a Federation"):
        fit(tiny_federation("ab"), tiny_data("ab"), 2, ckpt_path=tmp_path / "alone.ckpt")


@pytest.mark.promise("other checkpoint")
def test_a_checkpoint_of_another_architecture_names_the_tensor(abc: Path) -> None:
    words = r"another architecture: participant 'a' has backbone\.0\.weight of shape \(6, 4\), .* of shape \(5, 4\)"
    with pytest.raises(ValueError, match=words):
        fit(tiny_federation("abc", participant={"hidden": 6}), tiny_data("abc"), 2, ckpt_path=abc)


def test_all_that_a_checkpoint_holds_is_plain_data(tmp_path: Path) -> None:
    federation = tiny_federation("ab", student=tiny_participant(), participant={"optimizer": adam})
    callbacks = [EnsembleDistillation(mode="mixed", students="both"), BackboneAveraging(server_optimizer=adam)]
    path = saved(federation, tmp_path / "all.ckpt", *callbacks, rounds=2)
    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint["callbacks"]) == {"EnsembleDistillation", "BackboneAveraging"}
    assert len(checkpoint["callbacks"]["BackboneAveraging"]["servers"]) == 1


@pytest.mark.parametrize("method", ["validate", "test"])
def test_evaluation_reads_a_checkpoint_with_weights_only(method: str, abc: Path) -> None:
    trained, fresh = tiny_federation("abc"), tiny_federation("abc")
    evaluate = getattr(L.Trainer, method)
    once = trainer(1)
    once.fit(trained, datamodule=tiny_data("abc"))
    expected = evaluate(once, trained, datamodule=tiny_data("abc"), verbose=False)
    found = evaluate(trainer(1), fresh, datamodule=tiny_data("abc"), verbose=False, ckpt_path=abc, weights_only=True)
    assert found == expected
    assert equal(state_of(trained), state_of(fresh))


def test_a_checkpoint_without_optimizers_can_be_tested(tmp_path: Path) -> None:
    federation, fresh = tiny_federation("ab"), tiny_federation("ab")
    fit(federation, tiny_data("ab"), 1).save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    trainer(1).test(fresh, datamodule=tiny_data("ab"), ckpt_path=tmp_path / "weights.ckpt", verbose=False)
    assert equal(state_of(federation), state_of(fresh))


def test_a_federation_loads_itself_from_a_checkpoint(abc: Path) -> None:
    members = {name: tiny_participant(seed=7) for name in "abc"}
    loaded = Federation.load_from_checkpoint(abc, participants=members, weights_only=True)
    assert equal(state_of(loaded), torch.load(abc, weights_only=True)["state_dict"])


# One participant alone


def network(seed: int) -> tuple[nn.Module, nn.Module]:
    made = tiny_participant(seed=seed)
    return made.backbone, made.head


@pytest.fixture
def with_student(tmp_path: Path) -> tuple[Federation, Path]:
    federation = tiny_federation("ab", student=tiny_participant(seed=5))
    return federation, saved(federation, tmp_path / "student.ckpt", EnsembleDistillation(students="both"))


@pytest.mark.parametrize("name", ["a", "b", "student"])
def test_a_participant_is_taken_out_by_name(name: str, with_student: tuple[Federation, Path]) -> None:
    federation, path = with_student
    backbone, head = network(9)
    alone = Participant.load_from_checkpoint(path, participant=name, backbone=backbone, head=head)
    inputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(alone(inputs), federation[name](inputs))
    assert alone.host is None


def test_an_unknown_name_is_told_with_those_there_are(with_student: tuple[Federation, Path]) -> None:
    backbone, head = network(9)
    with pytest.raises(ValueError, match=r"student\.ckpt has no participant 'c'; it has a, b, student\."):
        Participant.load_from_checkpoint(with_student[1], participant="c", backbone=backbone, head=head)


def test_a_name_has_to_be_given(with_student: tuple[Federation, Path]) -> None:
    backbone, head = network(9)
    with pytest.raises(ValueError, match="is a federation's checkpoint: name one of its participants, a, b, student"):
        Participant.load_from_checkpoint(with_student[1], backbone=backbone, head=head)


def test_a_participant_trained_alone_loads_without_a_name(tmp_path: Path) -> None:
    participant, alone = tiny_participant(), trainer(1)
    alone.fit(participant, loader(), loader())
    alone.save_checkpoint(tmp_path / "alone.ckpt")
    backbone, head = network(9)
    loaded = Participant.load_from_checkpoint(tmp_path / "alone.ckpt", backbone=backbone, head=head)
    assert equal(state_of(participant), state_of(loaded))


@pytest.mark.promise("exported alone")
def test_what_is_taken_out_holds_itself_alone(tmp_path: Path) -> None:
    # The neighbour has 4 * 100_000 weights of 4 bytes; the participant 43 weights, which zip with names in 4 kB.
    federation = Federation({"a": tiny_participant(), "giant": tiny_participant(hidden=100_000)})
    path = saved(federation, tmp_path / "two.ckpt")
    assert path.stat().st_size > 3_000_000
    backbone, head = network(9)
    alone = Participant.load_from_checkpoint(path, participant="a", backbone=backbone, head=head)
    torch.save(alone.state_dict(), tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 5_000
    marked = federation["giant"].state_dict()["backbone.0.bias"][:8].numpy().tobytes()
    assert marked in path.read_bytes()
    assert marked not in (tmp_path / "a.pt").read_bytes()


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
@pytest.mark.promise("other checkpoint")
def test_a_truncated_checkpoint_is_named(kept: float, abc: Path) -> None:
    content = abc.read_bytes()
    abc.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    backbone, head = network(9)
    with pytest.raises(ValueError, match=r"abc\.ckpt cannot be read"):
        Participant.load_from_checkpoint(abc, participant="a", backbone=backbone, head=head)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "payload": Path}, tmp_path / "evil.ckpt")
    backbone, head = network(9)
    with pytest.raises(ValueError, match=r"evil\.ckpt cannot be read"):
        Participant.load_from_checkpoint(tmp_path / "evil.ckpt", participant="a", backbone=backbone, head=head)


# Through the Trainer


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
@pytest.mark.promise("other checkpoint")
def test_the_trainer_names_a_truncated_checkpoint(method: str, kept: float, abc: Path) -> None:
    content = abc.read_bytes()
    abc.write_bytes(content[: int(kept * len(content))])
    federation = tiny_federation("abc")
    before = state_of(federation)
    with pytest.raises(ValueError, match=r"abc\.ckpt cannot be read: it is cut off"):
        getattr(trainer(2), method)(federation, datamodule=tiny_data("abc"), ckpt_path=abc)
    assert equal(before, state_of(federation))


@pytest.mark.promise("other checkpoint")
def test_a_missing_checkpoint_is_told_as_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        fit(tiny_federation("ab"), tiny_data("ab"), 2, ckpt_path=tmp_path / "none.ckpt")


def test_a_plugin_of_the_users_still_reads_and_writes(tmp_path: Path) -> None:
    class Own(TorchCheckpointIO):
        calls: list[str]

        def save_checkpoint(self, *args: Any, **settings: Any) -> None:
            self.calls.append("save")
            super().save_checkpoint(*args, **settings)

        def load_checkpoint(self, *args: Any, **settings: Any) -> Any:
            self.calls.append("load")
            return super().load_checkpoint(*args, **settings)

        def remove_checkpoint(self, path: Any) -> None:
            self.calls.append("remove")
            super().remove_checkpoint(path)

        def teardown(self) -> None:
            self.calls.append("teardown")

    plugin = Own()
    plugin.calls = []
    path = saved(tiny_federation("ab"), tmp_path / "ab.ckpt")
    keeping = ModelCheckpoint(tmp_path / "kept", save_top_k=1)
    settings = {"plugins": [plugin], "ckpt_path": path, "enable_checkpointing": True}
    fit(tiny_federation("ab"), tiny_data("ab"), 3, keeping, **settings)
    assert plugin.calls == ["load", "save", "save", "remove", "teardown"]
