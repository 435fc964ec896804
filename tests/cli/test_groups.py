"""Groups in a configuration: a count beside a participant, merged and overridden like any other."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hetfed_lightning.cli import load_participant
from hetfed_lightning.cli.compare import same_recipes
from hetfed_lightning.cli.configs import ConfigError, load_configs
from hetfed_lightning.cli.groups import settings_by_member
from tests.cli.commands import hetfed, participant, put, tiny, written
from tests.federations import equal

MEMBERS = ["clinic_00", "clinic_01"]


def grouped(count: int = 12, **init_args: Any) -> dict[str, Any]:
    """The configuration of a group and of one participant beside it."""
    config = tiny(("solo",))
    config["model"]["participants"] = {"clinic": {"count": count} | participant(**init_args), "solo": participant()}
    config["data"]["init_args"] |= {
        "public_size": 0,
        "own_fractions": [0.5, 0.0, 0.5],
        "batch_size": {"clinic": 2, "solo": 3},
    }
    return config


def lr_of(settings: dict[str, Any]) -> float:
    found: float = settings["init_args"]["optimizer"]["init_args"]["lr"]
    return found


def loaded(config: dict[str, Any], *overrides: tuple[str, str]) -> dict[str, Any]:
    return settings_by_member(load_configs([str(written(config))], overrides)["model"]["participants"])


def test_a_group_becomes_its_members_in_order() -> None:
    members = loaded(grouped())
    assert list(members) == [*(f"clinic_{i:02d}" for i in range(12)), "solo"]
    assert members["clinic_11"] == participant()


def test_overrides_reach_the_group_and_single_members() -> None:
    config = grouped()
    config["model"]["participants"]["clinic_03"] = {"init_args": {"local_epochs": 2}}
    members = loaded(
        config, ("clinic.init_args.optimizer.init_args.lr", "0.5"), ("clinic_05.optimizer.init_args.lr", "0.7"),
        ("clinic_03.gradient_clip_val", "1.5"),
    )  # fmt: skip
    assert [lr_of(members[f"clinic_{i:02d}"]) for i in (0, 3, 5)] == [0.5, 0.5, 0.7]
    assert members["clinic_03"]["init_args"]["local_epochs"] == 2
    assert members["clinic_03"]["init_args"]["gradient_clip_val"] == 1.5
    assert lr_of(members["solo"]) == 0.1
    assert len(loaded(grouped(), ("clinic.count", "3"))) == 4


def test_a_second_file_changes_a_group_and_keeps_its_count() -> None:
    base = written(grouped(), "base.yaml")
    over: dict[str, Any] = {}
    put(over, "model.participants.clinic.init_args.joins_at", 1)
    more = written({"model": {"participants": {"clinic": {"count": 3}}}}, "more.yaml")
    other = written({"model": {"participants": {"clinic": {"class_path": "mine.Own", "init_args": {}}}}}, "other.yaml")
    files = [str(base), str(written(over, "over.yaml")), str(more)]
    members = settings_by_member(load_configs(files)["model"]["participants"])
    assert [name for name in members if name != "solo"] == ["clinic_0", "clinic_1", "clinic_2"]
    assert members["clinic_2"]["init_args"]["joins_at"] == 1
    assert lr_of(members["clinic_2"]) == 0.1
    found = load_configs([str(base), str(other)])["model"]["participants"]["clinic"]
    assert found["init_args"] == {"count": 12, "participant": {"class_path": "mine.Own", "init_args": {}}}


def test_null_takes_out_a_group_but_no_member() -> None:
    config = grouped()
    config["model"]["participants"]["clinic"] = None
    assert list(loaded(config)) == ["solo"]
    config = grouped()
    config["model"]["participants"]["clinic_03"] = None
    with pytest.raises(ConfigError, match=r"clinic_03: a member cannot be taken out"):
        loaded(config)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("clinic.count", "0", ["participant 'clinic' (a group)", "count", "got 0"]),
        ("clinic.count", "many", ["participant 'clinic' (a group)", "got 'many'"]),
        ("clinic.local_epoch", "2", ["participant 'clinic' (a group)", "did you mean 'local_epochs'?"]),
        ("clinic_3.local_epochs", "2", ["'clinic_3' looks like a member", "did you mean 'clinic_03'?"]),
        ("clinik.local_epochs", "2", ["no participant 'clinik'", "did you mean 'clinic'?"]),
    ],
)
def test_faults_name_the_group(capsys: pytest.CaptureFixture[str], option: str, value: str, words: list[str]) -> None:
    ended = hetfed(capsys, "fit", "-c", written(grouped()), f"--model.participants.{option}", value)
    assert ended.code == 2
    assert all(word in ended.err for word in words), ended.err


def test_a_run_its_configuration_its_checkpoint_and_one_member_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    config = grouped()
    config["model"]["participation"] = 0.3
    put(config, "trainer.logger", {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "."}})
    put(config, "trainer.enable_checkpointing", True)
    put(config, "model.participants.clinic_03.init_args.local_epochs", 2)
    assert hetfed(capsys, "fit", "-c", written(config)).code == 0
    (saved,), (file,) = Path().rglob("lightning_logs/**/config.yaml"), Path().rglob("*.ckpt")
    kept = yaml.safe_load(saved.read_text(encoding="utf-8"))["model"]["participants"]
    assert list(kept) == ["clinic", "solo", "clinic_03"]
    assert kept["clinic"]["init_args"]["count"] == 12  # and not twelve participants
    assert (
        lr_of(loaded(yaml.safe_load(saved.read_text("utf-8")), ("clinic.optimizer.init_args.lr", "0.9"))["clinic_11"])
        == 0.9
    )

    tested = hetfed(capsys, "test", "-c", saved, "--ckpt_path", file)
    assert (tested.code, "clinic_11" in tested.out) == (0, True)
    assert hetfed(capsys, "predict", "-c", saved, "--ckpt_path", file).code == 0
    assert len(list(Path().rglob("predictions/*.csv"))) == 13
    arguments: list[str | Path] = ["export", "-c", saved, "--ckpt_path", file, "--output"]
    states = []
    for name in MEMBERS:
        assert hetfed(capsys, *arguments, name, "--participant", name).code == 0
        states.append(load_participant(name).state_dict())
    shared = [{key: tensor for key, tensor in state.items() if key.startswith("backbone")} for state in states]
    assert equal(*shared)
    ended = hetfed(capsys, *arguments, "x", "--participant", "clinic_99")
    assert (ended.code, "no participant 'clinic_99'" in ended.err) == (2, True)


def test_an_argument_beside_a_groups_participant_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    config = grouped()
    settings = config["model"]["participants"]["clinic"]
    count = settings.pop("count")
    config["model"]["participants"]["clinic"] = {
        "class_path": "hetfed_lightning.ParticipantGroup",
        "init_args": {"count": count, "participant": settings, "shared": ["*"]},
    }
    ended = hetfed(capsys, "fit", "-c", written(config))
    assert ended.code == 2
    assert "model.participants.clinic: a group has count and participant, got shared beside them" in ended.err


def test_members_are_one_recipe_when_compared(capsys: pytest.CaptureFixture[str]) -> None:
    config = load_configs([str(written(grouped(2, local_epochs=3)))])
    assert same_recipes(config["model"]["participants"]) == {"clinic_1": "clinic_0"}
    config = grouped(2)
    ended = hetfed(capsys, "compare", "-c", written(config), "--output", "tables")
    assert (ended.code, ended.err) == (0, "")
    assert "clinic_1" in Path("tables/table.md").read_text(encoding="utf-8")
