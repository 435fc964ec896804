"""What has no meaning between institutions is refused by name, before anything is written."""

from pathlib import Path
from typing import Any

import pytest

from hetfed_lightning.cli.configs import ConfigError
from hetfed_lightning.federated_callback import FederatedCallback, Phase
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from tests.cli.commands import put, tiny, written
from tests.flower.deployed import deployed
from tests.methods.own_methods import Prototypes

CALLBACKS = "trainer.callbacks"


class Peeking(FederatedCallback):
    """Looks at everybody."""


class OwnAveraging(BackboneAveraging):
    """Does something of its own in a round's events."""

    def on_round_end(self, *args: Any) -> None:
        super().on_round_end(*args)


class OwnAnswers(EnsembleDistillation):
    """Sends something of its own in place of its outputs."""

    def send(self, *args: Any) -> Any:
        return super().send(*args)


class Rounds(Prototypes):
    """Acts in a round's events itself."""

    def on_round_end(self, *args: Any) -> None:
        super().on_round_end(*args)


class Early(Prototypes):
    """Acts before distillation."""

    phase = Phase.GUARD


def callback(path: str, **init_args: Any) -> list[dict[str, Any]]:
    return [{"class_path": path, "init_args": init_args}]


CASES: dict[str, tuple[str, Any, str]] = {
    "several devices": ("trainer.devices", 2, r"trainer.devices: a site trains its participant on one device, got 2"),
    "several machines": ("trainer.num_nodes", 2, r"trainer.num_nodes: a participant trains on one machine of its site"),
    "another strategy": ("trainer.strategy", "ddp", r"trainer.strategy: a site trains one participant in one process"),
    "an end by steps": ("trainer.max_steps", 10, r"trainer.max_steps: a federation between institutions counts rounds"),
    "an end by time": ("trainer.max_time", "00:01:00:00", r"trainer.max_time: the server ends after .* rounds"),
    "a quick try": (
        "trainer.fast_dev_run",
        True,
        r"trainer.fast_dev_run: it is for one process; set trainer.max_epochs",
    ),
    "no number of rounds": ("trainer.max_epochs", -1, r"trainer.max_epochs: expected the number of rounds, at least 1"),
    "clipping for all": ("trainer.gradient_clip_val", 1.0, r"Participant\(gradient_clip_val=...\)"),
    "something rare": ("trainer.sync_batchnorm", True, r"trainer.sync_batchnorm: it is not known to mean the same"),
    "early stopping": (
        CALLBACKS,
        callback("lightning.pytorch.callbacks.EarlyStopping", monitor="val_loss"),
        r"trainer.callbacks.0: EarlyStopping would end one process, while others go on",
    ),
    "another's callback": (
        CALLBACKS,
        callback("lightning.pytorch.callbacks.WeightAveraging"),
        r"trainer.callbacks.0: WeightAveraging sees a training of all participants, and a site has one",
    ),
    "a callback that sees everyone": (
        CALLBACKS,
        callback(f"{__name__}.Peeking"),
        r"trainer.callbacks.0: Peeking sees all participants, and between institutions nobody does",
    ),
    "a method that acts in a round's events": (
        CALLBACKS,
        callback(f"{__name__}.Rounds"),
        r"trainer.callbacks.0: Rounds overrides on_round_end, which reaches beyond the protocol of methods .*: say it",
    ),
    "a method in another phase": (
        CALLBACKS,
        callback(f"{__name__}.Early"),
        r"trainer.callbacks.0: Early acts in another phase than methods do: leave Early.phase as it is",
    ),
    "an averaging of one's own": (
        CALLBACKS,
        callback(f"{__name__}.OwnAveraging"),
        r"OwnAveraging overrides on_round_end, which reaches beyond the protocol",
    ),
    "answers of one's own": (
        CALLBACKS,
        callback(f"{__name__}.OwnAnswers"),
        r"OwnAnswers overrides send, and sites bound what they answer and learn of a public set by that of Ensemble",
    ),
    "a quorum of more than all": (
        "model.min_participants",
        3,
        r"model.min_participants: expected at most 2, as many as there are participants, got 3",
    ),
    "another's metric": (
        "model.participants.hospital_b.init_args.lr_scheduler",
        {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args": {"monitor": "federation/val_accuracy"}},
        r"model.participants.hospital_b.lr_scheduler: it follows 'federation/val_accuracy', which its site",
    ),
}


@pytest.mark.parametrize(("key", "value", "words"), CASES.values(), ids=list(CASES))
def test_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    put(config, key, value)
    with pytest.raises(ConfigError, match=rf"^config.yaml: .*{words}"):
        deployed(written(config), Path("d"), "--allow_import", __name__.partition(".")[0])
    assert not Path("d").exists()


def test_all_faults_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    put(config, "trainer.devices", 2)
    put(config, "model.min_participants", 3)
    with pytest.raises(ConfigError, match=r"trainer.devices.*; model.min_participants"):
        deployed(written(config), Path("d"))


def test_a_student_that_nobody_teaches_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    config["model"]["student"] = config["model"]["participants"]["hospital_a"]
    with pytest.raises(ConfigError, match=r"model.student: nobody teaches it; add EnsembleDistillation"):
        deployed(written(config), Path("d"))


def test_a_distillation_without_a_public_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    put(config, CALLBACKS, callback("hetfed_lightning.EnsembleDistillation"))
    put(config, "data.init_args.public_size", 0)
    with pytest.raises(ConfigError, match=r"config.yaml: data: EnsembleDistillation needs a public set"):
        deployed(written(config), Path("d"))


def test_classes_that_are_not_known_here_have_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    config["data"] = {
        "class_path": "hetfed_lightning.data.TableDataModule",
        "init_args": {"path": {"hospital_a": "/mnt/a.csv", "hospital_b": "/mnt/b.csv"}, "target": "sick"},
    }
    with pytest.raises(ConfigError, match=r"data.init_args.classes: name all classes, .*/mnt/a.csv"):
        deployed(written(config), Path("d"))
    config["data"]["init_args"]["classes"] = ["ill", "well"]
    deployed(written(config), Path("d"))


def test_errors_of_the_configuration_are_those_of_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    put(config, "model.participants.hospital_b.init_args.local_epoch", 2)
    with pytest.raises(ConfigError, match=r"(?s)config.yaml: participant 'hospital_b'.*did you mean 'local_epochs'"):
        deployed(written(config), Path("d"))
    config = tiny()
    put(config, CALLBACKS, callback("os.system", command="true"))
    with pytest.raises(ConfigError, match=r"'os.system' may not be named by a configuration"):
        deployed(written(config), Path("d"))
    with pytest.raises(ConfigError, match=r"gone.yaml: no such configuration file"):
        deployed(Path("gone.yaml"), Path("d"))
