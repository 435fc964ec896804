import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hetfed_lightning.participants.groups import member_names
from tests.cli.commands import hetfed

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.yaml"))
QUICK = ("--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu")


def write_images(folder: Path) -> None:
    """The four files of an IDX folder, with 600 small images of ten classes."""
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 600), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = struct.pack(">BBBB3I", 0, 0, 8, 3, *images.shape)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
            struct.pack(">BBBB1I", 0, 0, 8, 1, count) + labels.tobytes()
        )


def options(path: Path, folder: Path) -> list[str]:
    """What a configuration needs to run here: data of its own where it names a folder."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["init_args"]
    if "folder" not in settings:
        return []
    write_images(folder)
    return [f"--data.folder={folder}", "--data.public_size=20", "--data.max_samples=500"]


def test_there_are_some() -> None:
    assert CONFIGS


SLOWLY_PRINTED = (
    "car_parks",
    "cities",
    "digits",
    "digits_fedavg",
    "digits_student",
    "digits_twenty",
    "fashion_mnist",
    "hospitals_distilled",
    "image_and_genes",
)
"""Two seconds each, and the others hold everything that they do."""


def long_in_print(path: Path) -> Any:
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOWLY_PRINTED else [])


SLOWLY_TRAINED = ("digits", "digits_fedavg", "digits_student", "digits_twenty", "fashion_mnist", "hospitals_distilled")
"""One to fifteen seconds, and the others hold everything that they do; `digits` is trained for three rounds where it is
deployed."""


def long_in_training(path: Path) -> Any:
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOWLY_TRAINED else [])


@pytest.mark.parametrize("path", [long_in_training(path) for path in CONFIGS])
def test_it_trains_a_round(capsys: pytest.CaptureFixture[str], tmp_path: Path, path: Path) -> None:
    ended = hetfed(capsys, "fit", "-c", path, *options(path, tmp_path), *QUICK)
    assert ended.err.count("hetfed: error") == 0
    assert ended.code == 0
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    validates = settings["data"]["init_args"].get("fractions", [0.7, 0.1, 0.2])[1] > 0
    participants = settings["model"]["participants"] if validates else {}  # The table is of the last validation.
    for name, one in participants.items():
        first = member_names(name, one["count"])[0] if "count" in one else name
        assert any(line.startswith(f"{first} ") for line in ended.out.splitlines())


@pytest.mark.parametrize("path", [long_in_print(path) for path in CONFIGS])
def test_what_it_prints_is_complete_and_reads_back_as_itself(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    texts = []
    for source in (path, Path("printed.yaml")):
        with pytest.raises(SystemExit) as ended:
            hetfed(capsys, "fit", "-c", source, "--print_config")
        assert ended.value.code == 0
        texts.append(capsys.readouterr().out)
        Path("printed.yaml").write_text(texts[-1], encoding="utf-8")
    assert texts[0] == texts[1]
    found = yaml.safe_load(texts[0])
    assert {"seed_everything", "trainer", "model", "data", "threads", "ckpt_path"} <= set(found)
    # Complete: defaults that the file leaves out are there, for each participant too.
    assert found["trainer"]["limit_train_batches"] is None
    for settings in found["model"]["participants"].values():
        settings = settings["init_args"].get("participant", settings)  # noqa: PLW2901 - of a group, whom it copies
        assert {"shared", "joins_at", "task", "lr_scheduler", "accumulate_grad_batches"} <= set(settings["init_args"])
