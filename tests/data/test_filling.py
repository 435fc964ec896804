"""Gaps are filled with what training rows teach, and with the same values for as long as the participant lives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetfed_lightning import Federation, Participant
from hetfed_lightning.cli import load_participant
from hetfed_lightning.cli.export import SCHEMA, export_participant
from hetfed_lightning.data import DataError, Examples, SiteDataModule, TableDataModule
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.layers import Standardise
from hetfed_lightning.privacy import DPSGD
from tests.federations import fit, sgd, trainer

NAN = float("nan")
MEMBER = {
    "class_path": "hetfed_lightning.Participant",
    "init_args": {
        "backbone": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}},
        "head": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 2}},
    },
}


def write(folder: Path, late: float = 1000.0, order: str = "x,z,sick") -> str:
    """Ten rows each: x is a gap, 2, 4, a gap, 6 (a) or 12 (b), 6, 6, and then ``late`` three times; z is 1 or 0."""
    folder.mkdir(exist_ok=True)
    for name, five in (("a", 6), ("b", 12)):
        x = ["", 2, 4, "", five, 6, 6, late, late, ""]
        rows = [{"x": value, "z": i % 2, "sick": i % 2} for i, value in enumerate(x)]
        lines = [",".join(str(row[key]) for key in order.split(",")) for row in rows]
        (folder / f"{name}.csv").write_text("\n".join([order, *lines]), encoding="utf-8")
    return str(folder)


def module(path: str, **settings: Any) -> TableDataModule:
    time: dict[str, Any] = {"own_fractions": (0.7, 0.0, 0.3), "shuffle": False, "missing": "mean", "batch_size": 4}
    return TableDataModule(path, "sick", **(time | settings))


def inputs(dataset: Any) -> Tensor:
    assert isinstance(dataset, Examples)
    assert isinstance(dataset.inputs, Tensor)
    return dataset.inputs


def federation() -> Federation:
    torch.manual_seed(0)
    return Federation({name: Participant(nn.Linear(2, 3), nn.Linear(3, 2), optimizer=sgd()) for name in "ab"})


def test_gaps_are_filled_with_the_mean_of_training_rows_alone(tmp_path: Path) -> None:
    data = module(write(tmp_path))
    # Training rows are the first seven. a: (2 + 4 + 6 + 6 + 6) / 5 = 4.8; b: (2 + 4 + 12 + 6 + 6) / 5 = 6.
    assert inputs(data.data.train["a"])[:, 0].tolist() == pytest.approx([4.8, 2, 4, 4.8, 6, 6, 6])
    assert inputs(data.data.train["b"])[:, 0].tolist() == [6, 2, 4, 6, 12, 6, 6]
    assert inputs(data.data.test["b"])[:, 0].tolist() == [1000, 1000, 6]
    assert data.schemas["b"] == DataSchema(("x", "z"), (), (6.0, 3 / 7))
    changed = module(write(tmp_path / "other", late=-7.0))
    for name in "ab":
        assert torch.equal(inputs(changed.data.train[name]), inputs(data.data.train[name]))
    assert changed.schemas == data.schemas


def test_public_rows_teach_nothing_and_are_filled_too(tmp_path: Path) -> None:
    data = module(write(tmp_path), public_size=4)
    rows = torch.cat([inputs(data.data.train["b"]), inputs(data.data.public)])
    assert not rows.isnan().any()
    own = inputs(data.data.train["b"])[:, 0]
    value = data.schemas["b"].fillings[0]
    known = own[(own != torch.tensor(value))]
    assert value == pytest.approx(known.mean().item())


def test_a_column_without_a_value_in_training_is_refused_by_participant(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,sick\n" + ",0\n" * 7 + "1,1\n2,1\n3,0\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"participant 'a': column 'x' has no value .* in its 7 training rows: leave"):
        module(str(tmp_path)).setup()
    with pytest.raises(DataError, match="missing: expected 'mean', 'drop', 'keep' or None, got 'median'"):
        module(str(tmp_path), missing="median")


def test_a_site_alone_fills_as_in_one_process(tmp_path: Path) -> None:
    whole = module(write(tmp_path))
    site = SiteDataModule(module(str(tmp_path)), "b", public=None)
    assert torch.equal(inputs(site.data.train["b"]), inputs(whole.data.train["b"]))
    assert site.schemas == {"b": whole.schemas["b"]}


def test_means_without_noise_are_refused_beside_dp_sgd(tmp_path: Path) -> None:
    pytest.importorskip("opacus")
    settings: dict[str, Any] = {
        "privacy": DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-3),
        "optimizer": sgd(),
    }
    private = Federation({name: Participant(nn.Linear(2, 3), nn.Linear(3, 2), **settings) for name in "ab"})
    with pytest.raises(
        ValueError, match=r"participant 'a': privacy=DPSGD.* missing='mean': the means .* without noise"
    ):
        fit(private, module(write(tmp_path)))


def test_gaps_that_are_kept_need_a_transform(tmp_path: Path) -> None:
    kept = module(write(tmp_path), missing="keep")
    with pytest.raises(
        ValueError, match=r"'a': 2 of its 7 training rows have missing values.*Standardise\(2, fill_mis"
    ):
        fit(federation(), kept)
    scales: Any = {name: Standardise(2, fill_missing=True) for name in "ab"}
    members = {
        name: Participant(nn.Linear(2, 3), nn.Linear(3, 2), optimizer=sgd(), transform=scales[name]) for name in "ab"
    }
    fit(Federation(members), module(str(tmp_path), missing="keep"))
    assert scales["b"].mean.tolist() == pytest.approx([6.0, 3 / 7])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Federation, Path]:
    """A run of two rounds: its checkpoint, its federation and its data."""
    folder = tmp_path_factory.mktemp("run")
    path = write(folder / "data")
    trained = federation()
    fit(trained, module(path), 2).save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt", trained, Path(path)


def test_predictions_after_training_use_what_was_learned(run: tuple[Path, Federation, Path], tmp_path: Path) -> None:
    checkpoint, trained, path = run
    expected = trainer().predict(trained, datamodule=module(str(path)))
    assert expected is not None
    # The same test rows, in files with other columns first and other training rows.
    later = Path(write(tmp_path / "later", order="sick,z,x"))
    for name in "ab":
        text = (later / f"{name}.csv").read_text(encoding="utf-8").replace("0,0,2", "0,0,99").replace("1,1,2", "1,1,99")
        (later / f"{name}.csv").write_text(text, encoding="utf-8")
    data = module(str(later))
    found = trainer().predict(federation(), datamodule=data, ckpt_path=checkpoint)
    assert found is not None
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(torch.cat(one), torch.cat(other))
    assert data.schemas["b"] == DataSchema(("x", "z"), (), (6.0, 3 / 7))


def test_data_of_other_columns_is_refused_for_who_was_trained(
    run: tuple[Path, Federation, Path], tmp_path: Path
) -> None:
    checkpoint, _, path = run
    with pytest.raises(
        DataError, match="'a' was trained on the features x, z, in this order, and its data is read as z, x"
    ):
        trainer().predict(federation(), datamodule=module(str(path), features=["z", "x"]), ckpt_path=checkpoint)
    write(tmp_path, order="x,sick,z")
    for name in "ab":
        file = tmp_path / f"{name}.csv"
        file.write_text(file.read_text(encoding="utf-8").replace("x,sick,z", "x,sick,w"), encoding="utf-8")
    with pytest.raises(DataError, match=r"a.csv: has no column 'z'"):
        fit(federation(), module(str(tmp_path)), 3, ckpt_path=checkpoint)


def test_an_exported_participant_fills_gaps_by_itself(run: tuple[Path, Federation, Path], tmp_path: Path) -> None:
    checkpoint, trained, _ = run
    config: dict[str, Any] = {"model": {"participants": {"a": MEMBER, "b": MEMBER}}}
    folder = export_participant(config, str(checkpoint), "b", tmp_path / "b")
    alone = load_participant(folder)
    assert alone.schema == trained["b"].schema == DataSchema(("x", "z"), (), (6.0, 3 / 7))
    gaps, full = torch.tensor([[NAN, 1.0], [2.0, NAN]]), torch.tensor([[6.0, 1.0], [2.0, 3 / 7]])
    assert torch.equal(alone.predict(gaps), alone.predict(full))
    assert torch.isfinite(alone.predict(gaps)).all()
    (folder / SCHEMA).write_text("columns: [x]\nclasses: []\nfillings: [a]\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"schema.yaml: .*numbers under 'fillings'.*Export again"):
        load_participant(folder)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([], "expected entries by name, got list"),
        ({"columns": "xz", "classes": [], "fillings": []}, "list of names under 'columns'"),
        ({"columns": ["x"], "classes": [], "fillings": [NAN]}, "finite"),
        ({"columns": ["x"], "classes": [], "fillings": [1.0, 2.0]}, "a filling for each of 1 columns"),
    ],
)
def test_a_damaged_schema_is_refused(found: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataSchema.from_dict(found)


def test_a_schema_fills_tables_of_its_columns_and_nothing_else() -> None:
    schema = DataSchema(("x", "z"), (), (6.0, 0.5))
    assert torch.equal(
        DataSchema.from_dict(schema.to_dict()).filled(torch.tensor([[NAN, 1]])), torch.tensor([[6.0, 1]])
    )
    images = torch.zeros(2, 1, 3, 3)
    assert schema.filled(images) is images
    with pytest.raises(ValueError, match=r"expected rows of 2 columns \(x, z\)"):
        schema.filled(torch.full((2, 3), NAN))
