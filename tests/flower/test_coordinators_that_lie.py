"""A coordinator that asks for more than a site shares, or sends what it should not, is refused by the site itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hetfed_lightning import BackboneAveraging, EnsembleDistillation
from hetfed_lightning.flower.orders import Order
from hetfed_lightning.flower.site import Site
from hetfed_lightning.flower.site_round import OrderError
from tests.flower.federating import Deployed

pytestmark = pytest.mark.promise("travels")

HEAD = {"head.weight": torch.ones(3, 5)}
BACKBONE = {"backbone.0.weight": torch.full((5, 4), torch.nan)}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    deployed = Deployed("ab", lambda: [EnsembleDistillation(), BackboneAveraging()], tmp_path)
    return deployed.grid.sites["a"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keys": {1: ("head.weight",)}}, "asks for head.weight, which this site does not share"),
        ({"keys": {0: ("backbone.0.weight",)}}, "asks for callback 0, which this site does not share"),
        ({"keys": {7: ("backbone.0.weight",)}}, "asks for callback 7"),
        ({"shared": {1: HEAD}}, "sends head.weight, which this site does not share"),
        ({"shared": {0: HEAD}}, "sends callback 0"),
        ({"shared": {1: BACKBONE}}, "is not finite"),
        ({"targets": {0: torch.full((10, 3), torch.nan)}}, "expected finite ones for the 10 examples"),
        ({"targets": {0: torch.ones(9, 3)}}, r"of shape \(9, 3\)"),
        ({"targets": {1: torch.ones(10, 3)}}, "callback 1, which does not distil"),
        ({"lessons": {1: torch.ones(10, 3)}}, "callback 1, which does not distil"),
    ],
)
@pytest.mark.parametrize("trained", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_it_is_refused(changes: dict[str, Any], said: str, trained: bool, site: Site) -> None:
    order = Order("run", begin=0, keys={1: ("backbone.0.bias",)})
    if trained:
        site.carry_out(order)
        order = Order("run", finish=0, begin=1, keys={1: ("backbone.0.bias",)})
    with pytest.raises(OrderError, match=said):
        site.carry_out(replace(order, **changes))
    # Nothing of it is kept: an honest order is carried out afterwards.
    assert site.carry_out(order).shared[1].keys() == {"backbone.0.bias"}


def test_an_offer_is_asked_for_no_more(site: Site) -> None:
    with pytest.raises(OrderError, match=r"asks for head\.bias"):
        site.carry_out(Order("run", keys={1: ("head.bias",)}))
    assert site.carry_out(Order("run", keys={1: ("backbone.0.bias",)})).shared[1].keys() == {"backbone.0.bias"}
