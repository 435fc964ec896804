import pytest
import torch
from torch import Tensor

from hetfed_lightning.logs.text import readable_bytes
from hetfed_lightning.methods.averaging.sharing_groups import (
    SharingGroup,
    sharing_groups,
    sharing_report,
    split_layers,
)


def state(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {key: torch.zeros(shape) for key, shape in shapes.items()}


def test_participants_with_equal_layouts_are_one_group() -> None:
    states = {"a": state(weight=(2, 3), bias=(2,)), "b": state(weight=(2, 3), bias=(2,))}
    assert sharing_groups(states) == [SharingGroup(("a", "b"), ("weight", "bias"))]


def test_one_number_never_joins_a_vector() -> None:
    # Both broadcast into each other; each shape is a group of its own.
    states = {"a": state(scale=(1,)), "b": state(scale=(3,)), "c": state(scale=(1,)), "d": state(scale=(3,))}
    assert sharing_groups(states) == [SharingGroup(("a", "c"), ("scale",)), SharingGroup(("b", "d"), ("scale",))]
    assert sharing_groups({"a": state(scale=(1,)), "b": state(scale=(3,))}) == []


def test_equal_shapes_of_another_dtype_are_another_group() -> None:
    states = {"a": {"w": torch.zeros(2)}, "b": {"w": torch.zeros(2, dtype=torch.float64)}}
    assert sharing_groups(states) == []


def test_a_participant_may_be_in_several_groups() -> None:
    states = {
        "a": state(stem=(2,), wide=(4,)),
        "b": state(stem=(2,), wide=(4,)),
        "c": state(stem=(2,), wide=(5,)),
    }
    assert sharing_groups(states) == [SharingGroup(("a", "b", "c"), ("stem",)), SharingGroup(("a", "b"), ("wide",))]


def test_the_report_says_who_shares_what_and_what_stays() -> None:
    states = {"a": state(stem=(2,), wide=(4,)), "b": state(stem=(2,), wide=(5,)), "c": state(other=(3,))}
    personal = {"a": state(head=(10,)), "b": state(), "c": state(head=(1,))}
    report = sharing_report(states, personal, sharing_groups(states))
    assert report.splitlines() == [
        "What is averaged, and with whom:",
        "  a, b: stem, 8 B each way per participant",
        "  a: wide are averaged with nobody (other shapes at b)",
        "  a: head stay personal, 40 B",
        "  b: wide are averaged with nobody (other shapes at a)",
        "  b: no tensors stay personal, 0 B",
        "  c: other are averaged with nobody (no other participant has these keys)",
        "  c: head stay personal, 4 B",
    ]


def test_long_lists_of_keys_are_cut_short() -> None:
    many = state(**{f"layer{i}": (1,) for i in range(5)})
    report = sharing_report({"a": many, "b": many}, {"a": {}, "b": {}}, sharing_groups({"a": many, "b": many}))
    assert "layer0, layer1, layer2, ... (5 tensors), 20 B" in report


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (3e12, "3000.0 GB")]
)
def test_readable_bytes(count: float, text: str) -> None:
    assert readable_bytes(count) == text


def test_a_bias_without_its_weights_is_told() -> None:
    def layer(width: int) -> dict[str, Tensor]:
        return {"backbone.last.weight": torch.zeros(6, width), "backbone.last.bias": torch.zeros(6)}

    states = {"a": layer(8), "b": layer(9)}
    (line,) = split_layers(states, sharing_groups(states))
    assert line.startswith("a, b average backbone.last.bias, but not backbone.last.weight of the same layer")
    states = {"a": layer(8), "b": layer(8)}
    assert split_layers(states, sharing_groups(states)) == []
    # One network of another width beside two of one: those two average the whole layer, all three the bias.
    states = {"a": layer(8), "b": layer(8), "c": layer(9)}
    (line,) = split_layers(states, sharing_groups(states))
    assert line.startswith("a, b, c average backbone.last.bias")


def test_of_many_the_report_says_once_what_is_true_of_all() -> None:
    names = [f"s_{i:02d}" for i in range(30)]
    states = {name: state(stem=(2,)) for name in names} | {"z": state(stem=(3,))}
    personal = {name: state(head=(10,)) for name in names} | {"z": state(head=(1,))}
    assert sharing_report(states, personal, sharing_groups(states)).splitlines() == [
        "What is averaged, and with whom:",
        "  s_00, s_01, s_02, ... (30 participants): stem, 8 B each way per participant",
        "  s_00, s_01, s_02, ... (30 participants): head stay personal, 40 B",
        "  z: stem are averaged with nobody (other shapes at s_00, s_01, s_02, ... (30 participants))",
        "  z: head stay personal, 4 B",
    ]
