"""What ``hetfed deploy init`` writes, by hand for the configurations that come with the package."""

import logging
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hetfed_lightning.cli.configs import ConfigError, read_config
from hetfed_lightning.flower.coordinator.server_config import read_server_config
from hetfed_lightning.flower.init import init_command
from hetfed_lightning.flower.site.site_config import read_site_config
from tests.cli.commands import tiny, written
from tests.flower.deployed import CONFIGS, deployed, read, weights


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed("digits", tmp_path_factory.mktemp("digits") / "deployment")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed("hospitals", tmp_path_factory.mktemp("hospitals") / "deployment")


@pytest.fixture(scope="module")
def cities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed("cities", tmp_path_factory.mktemp("cities") / "deployment")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def without(value: Any, *keys: str) -> Any:
    """A configuration without what stands under some keys, wherever they are."""
    if isinstance(value, dict):
        return {key: without(one, *keys) for key, one in value.items() if key not in keys}
    return [without(one, *keys) for one in value] if isinstance(value, list) else value


# The folder


def test_the_files_of_digits(digits: Path) -> None:
    sites = [f"sites/hospital_{letter}" for letter in "abcd"]
    expected = ["README.md", "app/pyproject.toml", "server/server.yaml", "server/shared.json"]
    expected += [
        f"{site}/{name}" for site in sites for name in ("public.safetensors", "site.yaml", "start.safetensors")
    ]
    assert files(digits) == sorted(expected)


def test_without_distillation_there_is_no_public_set(hospitals: Path) -> None:
    assert not [name for name in files(hospitals) if "public" in name]


def test_a_site_of_digits_by_hand(digits: Path) -> None:
    assert read(digits / "sites/hospital_c/site.yaml") == {
        "seed_everything": 0,
        "threads": 1,
        "trainer": {
            "max_epochs": 15,
            "accelerator": "cpu",
            "log_every_n_steps": 1,
            "devices": 1,
            "callbacks": [
                {
                    "class_path": "hetfed_lightning.EnsembleDistillation",
                    "init_args": {
                        "ensemble": "hetfed_lightning.distillation.DensityRatioPosterior",
                        "temperature": 2.0,
                        "mode": "mixed",
                        "public_transform": {
                            "class_path": "hetfed_lightning.layers.RandomShift",
                            "init_args": {"max_pixels": 2},
                        },
                    },
                },
                {"class_path": "hetfed_lightning.BackboneAveraging"},
            ],
        },
        "model": {
            "seed": 0,
            "participants": {
                "hospital_c": {
                    "class_path": "hetfed_lightning.Participant",
                    "init_args": {
                        "backbone": {
                            "class_path": "hetfed_lightning.backbones.RecurrentBackbone",
                            "init_args": {"hidden_size": 64, "out_features": 64},
                        },
                        "head": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 64, "out_features": 10}},
                        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.002}},
                        "local_epochs": 2,
                        "min_steps": 32,
                        "own_prior": 0.5,
                    },
                }
            },
        },
        "data": {
            "class_path": "hetfed_lightning.data.SiteDataModule",
            "init_args": {
                "participant": "hospital_c",
                "everyone": ["hospital_a", "hospital_b", "hospital_c", "hospital_d"],
                "public": "public.safetensors",
                "data": read(CONFIGS / "digits.yaml")["data"],
            },
        },
    }


def test_the_server_of_digits_by_hand(digits: Path) -> None:
    assert read(digits / "server/server.yaml") == {
        "seed_everything": 0,
        "threads": 1,
        "sites": ["hospital_a", "hospital_b", "hospital_c", "hospital_d"],
        "deadline": 3600.0,
        "wait": 600.0,
        "trainer": {
            "max_epochs": 15,
            "callbacks": read(digits / "sites/hospital_a/site.yaml")["trainer"]["callbacks"],
        },
        "model": {"seed": 0, "participation": 1.0, "min_participants": 1},
    }


def test_the_server_of_a_student_has_it_and_the_public_set(tmp_path: Path) -> None:
    folder = deployed("digits_student", tmp_path / "d")
    server = read(folder / "server/server.yaml")
    assert server["model"]["student"] == read(CONFIGS / "digits_student.yaml")["model"]["student"]
    assert server["data"]["init_args"] == {"path": "public.safetensors"}
    assert server["trainer"]["accelerator"] == "cpu"
    assert [name for name in files(folder) if name.startswith("server/")] == [
        "server/public.safetensors",
        "server/server.yaml",
        "server/shared.json",
        "server/start.safetensors",
    ]
    assert "student" not in read(folder / "sites/hospital_a/site.yaml")["model"]
    # A residual network, whose key the sites' architectures have not.
    assert {key.split(".")[0] for key in weights(folder / "server/start.safetensors")} == {"backbone", "head"}


@pytest.mark.parametrize(
    "config", ["hospitals", *(pytest.param(one, marks=pytest.mark.slow) for one in ("digits", "cities"))]
)
def test_a_site_has_nothing_of_another(config: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(config)
    names = sorted(path.name for path in (folder / "sites").iterdir())
    source = read(CONFIGS / f"{config}.yaml")
    assert names == sorted(source["model"]["participants"])
    for name in names:
        site = folder / "sites" / name
        settings = read(site / "site.yaml")
        # `everyone` is the list of names that the data is dealt out to.
        text = yaml.safe_dump(without(settings, "everyone"))
        others = [other for other in names if other != name]
        assert [other for other in others if other in text] == []
        assert list(settings["model"]["participants"]) == [name]
        comments = [line for line in (site / "site.yaml").read_text(encoding="utf-8").splitlines() if "#" in line]
        assert [other for other in others if any(other in line for line in comments)] == []
        own = weights(site / "start.safetensors")
        for other in others:
            theirs = weights(folder / "sites" / other / "start.safetensors")
            # What is not drawn, such as the ones of a normalisation, is the same in all.
            drawn = [key for key in own.keys() & theirs.keys() if own[key].numel() > 8 and own[key].std() > 0]
            assert not any(torch.equal(own[key], theirs[key]) for key in drawn)


def test_participants_keep_their_order(cities: Path) -> None:
    order = ["minneapolis", "birmingham", "washington"]
    assert read(cities / "server/server.yaml")["sites"] == order
    assert read(cities / "sites/washington/site.yaml")["data"]["init_args"]["everyone"] == order


def test_settings_by_name_are_a_sites_own(cities: Path) -> None:
    found = {
        name: read(cities / "sites" / name / "site.yaml")["data"]["init_args"]["data"]["init_args"]["batch_size"]
        for name in ("minneapolis", "washington", "birmingham")
    }
    assert found == {
        "minneapolis": {"minneapolis": 128},
        "washington": {"washington": 128},
        "birmingham": {"birmingham": 32},
    }


def test_hospitals_keep_what_belongs_to_each(hospitals: Path) -> None:
    site = read(hospitals / "sites/hungary/site.yaml")
    assert site["model"]["participants"]["hungary"]["init_args"]["transform"]["init_args"]["indicators"] == [
        "cholesterol",
        "st_slope",
    ]
    assert site["data"]["init_args"]["data"]["init_args"] == {"fractions": [0.7, 0.0, 0.3], "seed": 0}
    assert site["trainer"]["max_epochs"] == 100


def test_members_of_a_group_are_written_out(tmp_path: Path) -> None:
    folder = deployed("car_parks", tmp_path / "d")
    assert read(folder / "server/server.yaml")["sites"] == [f"car_park_{number:02d}" for number in range(30)]
    site = read(folder / "sites/car_park_07/site.yaml")["model"]["participants"]
    assert list(site) == ["car_park_07"]
    assert site["car_park_07"]["class_path"] == "hetfed_lightning.Participant"
    assert "count" not in site["car_park_07"]
    # All of a group begin alike.
    first, second = (weights(folder / f"sites/car_park_{number}/start.safetensors") for number in ("00", "29"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_repeated_parts_are_written_out_at_every_site(digits: Path) -> None:
    for path in digits.rglob("*.yaml"):
        read_config(str(path))  # Strictly: no key twice, no other kinds.
        lines = [line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines()]
        assert not [line for line in lines if "&" in line or "*" in line]


# The app and the page of commands


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # The engine asks for what is old.
def test_the_app_has_no_dependencies_and_the_engine_takes_it(digits: Path) -> None:
    app = tomllib.loads((digits / "app/pyproject.toml").read_text(encoding="utf-8"))
    assert app["project"]["name"] == "hetfed-digits"
    assert "dependencies" not in app["project"]
    assert app["tool"]["flwr"]["app"]["components"] == {
        "serverapp": "hetfed_lightning.flower.server_app:app",
        "clientapp": "hetfed_lightning.flower.client_app:app",
    }
    assert app["tool"]["flwr"]["app"]["config"] == {
        "config": str(digits / "server" / "server.yaml"),
        "run-dir": str(digits / "run"),
        "resume": False,
        "sites": str(digits / "sites"),
        "state-dir": "",
    }
    build = pytest.importorskip("flwr.cli.build")
    assert len(build.build_fab_from_disk(digits / "app")) < 10_000


def test_the_page_has_a_command_for_everyone(hospitals: Path) -> None:
    page = (hospitals / "README.md").read_text(encoding="utf-8")
    for name in ("cleveland", "hungary", "switzerland", "va_long_beach"):
        assert f"flwr supernode register keys/{name}.pub hetfed --name {name}" in page
        assert f"""--node-config 'participant="{name}" config="/PATH/site.yaml" state-dir="/PATH/STATE"'""" in page
    folder = str(hospitals)
    assert f"hetfed deploy coordinator {folder} --host 0.0.0.0 --port 8000 --resume\n" in page
    assert "hetfed deploy site FOLDER --coordinator COORDINATOR:8000\n" in page
    main_way, _, own_commands = page.partition("## With the engine's own commands")
    assert not any(word in main_way for word in ("flwr", "flower-"))
    assert "runs whatever program the coordinator submits" in own_commands
    assert "--enable-supernode-auth --disable-runtime-dependency-installation" in page
    assert "flwr run app hetfed --stream --run-config 'resume=true'" in page
    for variable in ("FLWR_TELEMETRY_ENABLED=0", "FLWR_DISABLE_UPDATE_CHECK=1"):
        assert f"export {variable}" in page
    assert "$" not in page.replace("$FLWR_HOME", "")
    assert "predictions" not in page
    assert max(map(len, page.splitlines())) <= 130


def test_the_page_says_what_leaves_a_site(digits: Path) -> None:
    page = (digits / "README.md").read_text(encoding="utf-8")
    assert "- what DensityRatioPosterior asks for of each public example, made of its own examples too\n" in page
    assert "- how many of its examples are of each class, for which DensityRatioPosterior asks\n" in page
    assert "EnsembleDistillation describes" not in page


@pytest.mark.parametrize("program", ["flower-superlink", "flower-supernode"])
def test_the_engine_knows_the_options_of_the_page(digits: Path, program: str) -> None:
    module = pytest.importorskip(
        {
            "flower-superlink": "flwr.superlink.cli.flower_superlink",
            "flower-supernode": "flwr.supernode.cli.flower_supernode",
        }[program]
    )
    made = {"flower-superlink": "_parse_args_run_superlink", "flower-supernode": "_parse_args_run_supernode"}[program]
    known = {option for action in getattr(module, made)()._actions for option in action.option_strings}
    page = (digits / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [line for line in page.splitlines() if line.strip().startswith(f"{program} ")]
    assert commands
    for command in commands:
        assert {part for part in command.split() if part.startswith("--")} <= known


# What is read in


def test_paths_of_the_data_hold_wherever_a_process_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = deployed(written(tiny()), Path("out/d"))
    site = folder / "sites/hospital_a/site.yaml"
    assert read(site)["data"]["init_args"]["data"]["init_args"]["path"] == str(tmp_path / "pool.npz")
    assert "#   data.init_args.data.init_args.path" in site.read_text(encoding="utf-8")
    monkeypatch.chdir("/")
    found = read_site_config(tmp_path / site, "hospital_a")
    assert len(found.data.data.train["hospital_a"]) > 0  # type: ignore[arg-type]
    assert found.data.num_public == 9


def test_tables_are_divided_and_classes_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    Path("tables").mkdir()
    for name, labels in (("hospital_a", ("ill", "well")), ("hospital_b", ("well", "dead"))):
        rows = [f"{i},{i * i % 7},{i % 3},{i % 2},{labels[i % 2]}" for i in range(40)]
        Path(f"tables/{name}.csv").write_text("\n".join(["x,y,z,w,sick", *rows]), encoding="utf-8")
    config["data"] = {
        "class_path": "hetfed_lightning.data.TableDataModule",
        "init_args": {"path": "tables", "target": "sick", "public_size": 5, "global_sets": True, "batch_size": 8},
    }
    config["trainer"]["callbacks"].append({"class_path": "hetfed_lightning.EnsembleDistillation"})
    folder = deployed(written(config), Path("d"))
    settings = read(folder / "sites/hospital_b/site.yaml")["data"]["init_args"]
    assert "everyone" not in settings
    # 5 public examples of two hospitals are 3 of each.
    assert settings["data"]["init_args"] == {
        "path": {"hospital_b": str(tmp_path / "tables/hospital_b.csv")},
        "target": "sick",
        "public_size": 3,
        "global_sets": False,
        "batch_size": 8,
        "participants": ["hospital_b"],
        "classes": ["dead", "ill", "well"],
        "features": ["x", "y", "z", "w"],
    }
    Path("tables/hospital_a.csv").unlink()  # The other site's, which is not here.
    data = read_site_config(folder / "sites/hospital_b/site.yaml", "hospital_b").data
    assert set(data.train_targets("hospital_b").tolist()) == {0, 2}
    assert data.num_public == 6


def test_sites_get_the_categories_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    arguments: dict[str, Any] = {"path": {}, "target": "sick", "categories": ["smoker"]}
    for name, smoker in (("hospital_a", "never"), ("hospital_b", "former")):
        arguments["path"][name] = f"{name}.csv"
        rows = [f"{smoker},{i},{i % 3}" for i in range(40)]
        Path(f"{name}.csv").write_text("\n".join(["smoker,x,sick", *rows]), encoding="utf-8")
    config["data"] = {"class_path": "hetfed_lightning.data.TableDataModule", "init_args": arguments}
    for member in config["model"]["participants"].values():
        member["init_args"]["backbone"]["init_args"]["in_features"] = 5
    folder = deployed(written(config), Path("d"))
    settings = read(folder / "sites/hospital_b/site.yaml")["data"]["init_args"]["data"]["init_args"]
    assert settings["categories"] == {"smoker": ["former", "never"]}
    names = ["former", "never", "(unknown)", "(missing)"]
    assert settings["features"] == [*(f"smoker={name}" for name in names), "x"]
    Path("hospital_b.csv").unlink()
    with pytest.raises(ConfigError, match="categories: name the values of column 'smoker', since every site would"):
        deployed(written(config), Path("e"))


def test_paths_by_participant_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    config["data"] = {
        "class_path": "hetfed_lightning.data.TableDataModule",
        "init_args": {
            "path": {"hospital_a": "a.csv", "hospital_b": "/mnt/b.csv"},
            "target": "sick",
            "kind": "value",
            "features": {"hospital_a": ["x"], "hospital_b": ["y"]},
        },
    }
    folder = deployed(written(config), Path("d"))  # Neither file is here: nothing of them is needed.
    settings = read(folder / "sites/hospital_b/site.yaml")["data"]["init_args"]["data"]["init_args"]
    assert settings["path"] == {"hospital_b": "/mnt/b.csv"}
    assert settings["features"] == {"hospital_b": ["y"]}
    first = read(folder / "sites/hospital_a/site.yaml")["data"]["init_args"]["data"]["init_args"]
    assert first["path"] == {"hospital_a": str(tmp_path / "a.csv")}


def test_what_belongs_to_the_server_goes_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    config["model"] |= {"participation": 0.5, "min_participants": 2, "predict_with": "hospital_a", "seed": 9}
    config["model"]["participants"]["hospital_b"]["init_args"] |= {"joins_at": 2, "leaves_at": 5}
    config["trainer"]["callbacks"][0]["init_args"] = {"weighting": {"hospital_a": 1.0, "hospital_b": 3.0}}
    config["trainer"]["max_epochs"] = 7
    folder = deployed(written(config), Path("d"))
    server = read_server_config(folder / "server/server.yaml")
    assert (server.participation, server.min_participants, server.seed, server.rounds) == (0.5, 2, 9, 7)
    assert (server.joins_at, server.leaves_at) == ({"hospital_b": 2}, {"hospital_b": 5})
    assert server.callbacks[0].weighting == {"hospital_a": 1.0, "hospital_b": 3.0}  # type: ignore[attr-defined]
    site = read_site_config(folder / "sites/hospital_b/site.yaml", "hospital_b")
    assert site.federation.seed == 9
    assert site.federation["hospital_b"].joins_at == 2
    assert site.callbacks[0].weighting == {"hospital_b": 3.0}  # type: ignore[attr-defined]
    assert list(read(folder / "sites/hospital_b/site.yaml")["model"]) == ["seed", "participants"]


def test_who_learns_is_written_out_where_there_is_a_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # "auto" is the student where there is one, and a site does not know of it.
    monkeypatch.chdir(tmp_path)
    config = tiny()
    config["trainer"]["callbacks"] = "hetfed_lightning.EnsembleDistillation"
    folder = deployed(written(config), Path("mutual"))
    assert read(folder / "sites/hospital_a/site.yaml")["trainer"]["callbacks"] == [
        {"class_path": "hetfed_lightning.EnsembleDistillation"}
    ]
    config["model"]["student"] = config["model"]["participants"]["hospital_a"]
    folder = deployed(written(config), Path("taught"))
    for path in (folder / "sites/hospital_a/site.yaml", folder / "server/server.yaml"):
        assert read(path)["trainer"]["callbacks"] == [
            {"class_path": "hetfed_lightning.EnsembleDistillation", "init_args": {"students": "student"}}
        ]


def test_several_files_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = written(tiny()), written({"trainer": {"max_epochs": 4}}, "more.yaml")
    init_command([str(first), str(second), "-o", "d"])
    assert read(Path("d/server/server.yaml"))["trainer"]["max_epochs"] == 4


# Writing over


def test_a_folder_in_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tiny())
    folder = deployed(path, Path("d"))
    (folder / "keys").mkdir()
    (folder / "keys/ca.pem").write_text("mine", encoding="utf-8")
    (folder / "server/server.yaml").write_text("sites: [x]", encoding="utf-8")
    with pytest.raises(ConfigError, match="-o: d is not empty; give another folder, or --force"):
        deployed(path, folder)
    deployed(path, folder, "--force")
    assert read(folder / "server/server.yaml")["sites"] == ["hospital_a", "hospital_b"]
    assert (folder / "keys/ca.pem").read_text(encoding="utf-8") == "mine"
    assert not list(tmp_path.glob(".hetfed-*"))


def test_a_folder_that_is_no_deployment_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(ConfigError, match="home is not empty and holds no deployment"):
        deployed(written(tiny()), Path("home"), "--force")
    with pytest.raises(ConfigError, match=r"pool.npz is a file"):
        deployed(written(tiny()), Path("pool.npz"))


def test_a_site_that_is_no_participant_any_more_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = deployed(written(tiny(("hospital_a", "hospital_b", "hospital_c"))), Path("d"))
    with pytest.raises(ConfigError, match=r"d has a site 'hospital_c', which is no participant of config.yaml"):
        deployed(written(tiny()), folder, "--force")


def test_nothing_is_written_where_something_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    config["trainer"]["callbacks"].append({"class_path": "hetfed_lightning.EnsembleDistillation"})
    config["data"]["init_args"]["path"] = "gone.npz"
    with pytest.raises(ConfigError, match=r"config.yaml: data: the public set could not be read here: .*gone.npz"):
        deployed(written(config), Path("d"))
    assert not Path("d").exists()


def test_it_says_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny()
    config["trainer"]["callbacks"] = [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}]
    with caplog.at_level(logging.INFO):
        deployed(written(config), Path("d"))
    text = caplog.text
    assert "Left out: ModelCheckpoint" in text
    assert "Neither BackboneAveraging nor EnsembleDistillation" in text
    assert "A trial: every site reads everyone's data" in text
    assert "hetfed deploy local d" in text
