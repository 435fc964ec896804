"""Names of participants: what files, tables, charts and checkpoints can be called, or refused with another to take."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hetfed_lightning import Federation
from hetfed_lightning.data.name_checks import RESERVED, name_problem
from tests.federations import fit, tiny_data, tiny_federation, tiny_participant


@pytest.mark.parametrize("name", ["001", "no", "7", "null", "true", "1e3", "bytes_up", "a-b", "_x", "x" * 100, "nan"])
def test_any_word_of_letters_and_digits_is_a_name(name: str) -> None:
    made = fit(tiny_federation([name, "b"]), tiny_data([name, "b"]), 1)
    assert f"val_accuracy/{name}" in made.callback_metrics


@pytest.mark.parametrize("name", [*RESERVED, "Mean", "WORST"])
def test_names_of_tables_and_figures_are_reserved(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' is reserved, since .*: call it '{name}_site', in the config"):
        Federation({name: tiny_participant()})


@pytest.mark.parametrize(
    ("name", "instead"),
    [("Zürich", "Zurich"), ("St. Mary", "St_Mary"), ("a/b", "a_b"), ("東京", "site_1"), ("", "site_1"), (" ", "site_1"),
     ("a*", "a"), ("-a", "a"), ("a\n", "a"), ("Ünï cödé", "Uni_code"), ("1.0", "1_0"), ("../x", "x"),
     ("Mean.", "Mean_site")],
)  # fmt: skip
def test_another_name_is_proposed(name: str, instead: str) -> None:
    expected = f"expected a name of letters, digits, '_' and '-', got {name!r}: call it {instead!r}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        Federation({name: tiny_participant()})


@given(st.text(max_size=150))
def test_a_name_is_usable_or_its_proposal_is(name: str) -> None:
    problem = name_problem(name)
    if problem is None:
        assert re.fullmatch(r"[\w-]{1,100}", name, re.ASCII)
        nn.ModuleDict({f"p_{name}": nn.Identity()})
    elif "call it" in problem:
        proposed = re.search(r"call it '([^']*)'", problem)
        assert proposed is not None
        assert name_problem(proposed[1]) is None


def test_names_that_differ_in_case_alone_and_attributes_of_modules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two participant names are the same, or differ in case .*'A' and 'a'"):
        Federation({"A": tiny_participant(), "a": tiny_participant()})
    for name in ("training", "keys", "forward", "_modules"):
        with pytest.raises(ValueError, match=f"'{name}' is reserved"):
            Federation({name: tiny_participant()})
    with pytest.raises(ValueError, match="expected a name as text, got 1"):
        Federation({1: tiny_participant()})  # type: ignore[dict-item]  # what YAML made of 001


def test_a_name_may_be_that_of_a_figure_of_all() -> None:
    made = fit(tiny_federation(["quarantined", "b"]), tiny_data(["quarantined", "b"]), 1)
    found = made.callback_metrics
    assert {"federation/quarantined", "val_loss/quarantined"} <= found.keys()
