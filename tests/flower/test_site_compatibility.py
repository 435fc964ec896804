"""Sites whose columns or classes mean something else are told in a table, before anything is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hetfed_lightning import BackboneAveraging, Federation, FederationView, Participant
from hetfed_lightning.cli.compare import check_poolable
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data import DataError, SiteDataModule, TableDataModule
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.flower.coordinator.site_compatibility import Difference, disagreements, odd_ones, table
from hetfed_lightning.flower.init.data import agreed_settings
from hetfed_lightning.flower.protocol.description import Description, describe
from hetfed_lightning.flower.protocol.messages import description_content, description_of
from hetfed_lightning.layers import Standardise
from hetfed_lightning.methods.averaging.column_checks import check_columns
from tests.federations import fit, sgd

SHARED = {"backbone.weight": ((5, 2), "float32")}


def site(name: str, **told: Any) -> Description:
    settings: dict[str, Any] = {
        "participant": name, "seed": 0, "callbacks": ("BackboneAveraging",), "offered": {0: SHARED}, "personal": {},
        "parameters": ("backbone.weight", "head.weight"), "trained": (), "kind": "multiclass", "width": 2,
        "public_size": 0, "public_hash": "", "reads_public": False, "samples": 9, "class_counts": (), "joins_at": 0,
        "leaves_at": None, "lessons": 0, "role": {},
    }  # fmt: skip
    return Description(**settings | told)


def rows(differing: dict[str, Difference]) -> dict[str, dict[str, str]]:
    return {subject: one.row() for subject, one in differing.items()}


def found(**told: dict[str, Any]) -> dict[str, Difference]:
    return disagreements({name: site(name, **one) for name, one in told.items()}, [BackboneAveraging()], 0, {})


def test_columns_in_another_order_are_told_by_place() -> None:
    alike = {"columns": ("age", "dose", "x")}
    assert not found(a=alike, b=alike, c={})
    differing = found(a=alike, b={"columns": ("dose", "age", "x")}, c={"columns": ("z",)}, d=alike)
    assert rows(differing) == {
        "column 1 of 3": {"a": "'age'", "b": "'dose'", "d": "'age'"},
        "column 2 of 3": {"a": "'dose'", "b": "'age'", "d": "'dose'"},
    }
    assert odd_ones(differing) == {"b"}
    assert "column 1 of 3  'age'   'dose'  'age'" in table(differing)
    # Who keeps the first layer to itself may read other columns.
    assert not found(a={"columns": ("age",)}, b={"columns": ("dose",), "offered": {0: {}}})


def test_classes_of_another_order_or_number_are_told() -> None:
    swapped = found(a={"classes": ("ill", "well")}, b={"classes": ("well", "ill")})
    assert rows(swapped)["class 1 of 2"] == {"a": "'ill'", "b": "'well'"}
    assert found(a={"classes": ("no", "yes")}, b={"classes": ("no", "yes ")}).keys() == {"class 2 of 2"}
    fewer = found(a={"classes": ("no",)}, b={"classes": ("no", "yes")})
    assert rows(fewer) == {"class 2 of 2": {"a": "none", "b": "'yes'"}}
    assert not found(a={"classes": ("0", "1")}, b={"labels": ("1",)})
    numbers = found(a={"classes": ("0", "1")}, b={"labels": ("1", "2")})
    assert rows(numbers) == {"classes": {"a": "0, 1", "b": "numbers 1, 2"}}
    assert found(a={"classes": ("no", "yes")}, b={"labels": ("0", "1")}).keys() == {"classes"}


def test_labels_from_one_beside_labels_from_zero_are_told() -> None:
    zero, one = {"labels": ("0", "1")}, {"labels": ("1", "2")}
    differing = found(a=one, b=zero, c=zero, d={"labels": ("1",)})
    assert rows(differing) == {"labels": {"a": "1, 2", "b": "0, 1", "c": "0, 1"}}
    assert odd_ones(differing) == {"a"}
    assert not found(a=one, b=zero, c={"labels": ("0", "2")})
    assert not found(a={"labels": ("3", "5")}, b=zero)


class Tells(FederatedCallback):
    """Keeps what a site would tell of itself in its first round."""

    def on_round_start(self, trainer: Any, federation: FederationView, round_index: int) -> None:
        del round_index
        self.told = describe([BackboneAveraging()], trainer, federation)


def described(data: SiteDataModule, **settings: Any) -> Description:
    name = data.participant
    one = Participant(nn.Linear(2, 3), nn.Linear(3, 3), optimizer=sgd(), **settings)
    tells = Tells()
    fit(Federation({name: one}), data, 1, tells)
    return description_of(description_content(tells.told))


def test_a_site_tells_what_its_data_means(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,dose,age,sick\n" + "1,2,3,2\n2,3,4,1\n3,3,3,1\n4,4,4,2\n" * 3, encoding="utf-8")
    alone: dict[str, Any] = {"path": str(tmp_path), "target": "sick"}
    told = described(SiteDataModule(TableDataModule(**alone), "a"))
    assert (told.columns, told.classes, told.labels) == (("dose", "age"), (), ("1", "2"))
    named = SiteDataModule(TableDataModule(**alone, features=["age", "dose"], classes=["1", "2"]), "a")
    told = described(named, transform=Standardise(2))
    assert (told.columns, told.classes, told.labels) == (("age", "dose"), ("1", "2"), ())
    told = described(SiteDataModule(TableDataModule(**alone), "a"), transform=nn.Identity())
    assert told.columns == ()  # The transform may have made anything of them.


@pytest.mark.parametrize("kind", ["class", "value"])
def test_a_deployment_names_columns_and_classes_for_every_site(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "a.csv").write_text("age,dose,sick\n1,2,0\n2,3,2\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("sick,dose,age,w\n1,2,0,1\n1,3,2,1\n", encoding="utf-8")

    class Source:
        data = TableDataModule(str(tmp_path), "sick", kind=kind)

    expected: dict[str, Any] = {"features": ["age", "dose"]} | ({"classes": ["0", "1", "2"]} if kind == "class" else {})
    assert agreed_settings(Source()) == expected  # type: ignore[arg-type]
    whole = TableDataModule(str(tmp_path), "sick", kind=kind, own_fractions=(1.0, 0.0, 0.0))
    apart = TableDataModule(
        {"b": str(tmp_path / "b.csv")}, "sick", kind=kind, own_fractions=(1.0, 0.0, 0.0), **expected
    )
    for index in range(2):
        for one, other in zip(whole.data.train["b"][index], apart.data.train["b"][index], strict=True):
            assert torch.equal(one, other)


def test_columns_that_differ_by_participant_are_neither_averaged_nor_joined(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("age,dose,sick\n" + "1,2,0\n2,3,1\n" * 6, encoding="utf-8")
    listed = {"a": ["age", "dose"], "b": ["dose", "age"]}

    def members(**settings: Any) -> Federation:
        return Federation({name: Participant(nn.Linear(2, 3), nn.Linear(3, 2), **settings) for name in "ab"})

    with pytest.raises(ValueError, match=r"'a' and 'b' average all .* column 1 is 'age' in the data of 'a' and 'dose'"):
        fit(members(), TableDataModule(str(tmp_path), "sick", features=listed), 1, BackboneAveraging())
    fit(members(shared=("head",)), TableDataModule(str(tmp_path), "sick", features=listed), 1, BackboneAveraging())
    for joined in ({"global_sets": True}, {"public_size": 2}):
        data = TableDataModule(str(tmp_path), "sick", features=listed, **joined)
        with pytest.raises(DataError, match=rf"{next(iter(joined))}: joins .* 'a' reads age, dose and 'b' reads dose"):
            data.setup()
    whole = TableDataModule(str(tmp_path), "sick", features=listed)
    whole.setup()
    with pytest.raises(ConfigError, match=r"'centralised' .* 'a' reads age, dose and 'b' reads dose, age"):
        check_poolable(whole.data, whole.schemas)


def test_a_backbone_of_other_columns_is_not_averaged() -> None:
    def member(*columns: str, **settings: Any) -> Participant:
        one = Participant(nn.Linear(2, 3), nn.Linear(3, 2), **settings)
        one.schema = DataSchema(columns)
        return one

    def check(**members: Participant) -> None:
        check_columns(members, {name: one.shared_keys() for name, one in members.items()})

    with pytest.raises(
        ValueError, match=r"'a' and 'b' average all .* column 1 is 'x' in the data of 'a' and 'y' in that"
    ):
        check(a=member("x", "y"), b=member("y", "x"))
    check(a=member("x", "y"), b=member("y", "x", shared=("head",)), c=member("x", "y"))
    check(a=member("x", "y"), b=member("y", "x", transform=nn.Identity()))
    with pytest.raises(ValueError, match="'a' and 'b'"):
        check(a=member("x", "y"), b=member("x", "z", transform=Standardise(2)))
