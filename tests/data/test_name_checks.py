from __future__ import annotations

import pytest

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.name_checks import did_you_mean, refuse_twin_names
from hetfed_lightning.data.optional import import_optional


def test_the_closest_name_is_suggested_whatever_its_case() -> None:
    assert did_you_mean("Hospitl", ["age", "hospital"]) == "; did you mean 'hospital'?"
    assert did_you_mean("AGE", ["age", "hospital"]) == "; did you mean 'age'?"


def test_without_a_close_name_all_are_listed_up_to_ten() -> None:
    assert did_you_mean("zzz", ["a", "b"]) == "; there is 'a', 'b'"
    assert did_you_mean("zzz", []) == "; there is none"
    assert did_you_mean("zzz", map(str, range(11))).endswith("'9', ...")


@pytest.mark.parametrize("twin", ["Ward", " ward", "ward"])
def test_twin_names_are_refused(twin: str) -> None:
    with pytest.raises(DataError, match=r"here: two participant names .* 'ward' and"):
        refuse_twin_names(["ward", "other", twin], "participant", "here")


def test_an_error_is_a_value_error() -> None:
    assert issubclass(DataError, ValueError)


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(ImportError, match=r"no_such_package is needed .* pip install 'hetfed-lightning\[tables\]'"):
        import_optional("no_such_package.inner", "hetfed-lightning[tables]")
