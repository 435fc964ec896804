"""Words of the other side: one line, printable, short; whatever they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from hetfed_lightning.flower.protocol.untrusted import is_name, one_line, shown

pytestmark = pytest.mark.promise("words")


@given(some.text(some.characters()), some.integers(10, 400))
def test_any_text_becomes_a_line(text: str, most: int) -> None:
    line = one_line(text, most)
    assert line.isprintable()
    assert len(line) <= most
    assert not set(line) & set("<>|`")
    assert one_line(line, most) == line
    line.encode()  # No half of a pair is left.


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("CUDA out of\nmemory", "CUDA out of memory"),
        ("late\nRound 99/99: all good", "late Round 99/99: all good"),
        ("\x1b[2J\x1b]0;mine\x07x", "[2J ]0;mine x"),
        ("a\u2028b\u202ec\u200bd\x85e\ud800f", "a b c d e f"),
        ("<b>1 | 2</b> `x`", "b 1 2 /b x"),
        ("Zürich, 東京 é", "Zürich, 東京 é"),
        (None, ""),
        (3, ""),
    ],
)
def test_lines_by_hand(text: object, line: str) -> None:
    assert one_line(text) == line


def test_a_cut_is_told() -> None:
    assert one_line("A" * 5_000_000) == "A" * 297 + "..."
    assert one_line(" " * 5_000_000 + "x", 20) == "..."
    assert one_line("A" * 20, 20) == "A" * 20


@pytest.mark.parametrize(
    "value",
    ["A" * 5_000_000, 10**4000, [[[[[[[["deep"]]]]]]]], list(range(10**5)), {"\n": "\x1b"}, b"\xff" * 10**5, object()],
)
def test_a_value_is_shown_in_short(value: object) -> None:
    assert 0 < len(shown(value)) <= 120
    assert shown(value).isprintable()


def test_values_by_hand() -> None:
    assert shown("many") == "'many'"
    assert shown(None) == "None"
    assert shown(-5) == "-5"
    assert shown(10**400) == "a number of 1329 bits"


@pytest.mark.parametrize("text", ["", "a\nb", "\x00", "\ud800", "\u202e", "x" * 201, 3, None, b"a"])
def test_no_names(text: object) -> None:
    assert not is_name(text)


@pytest.mark.parametrize("text", ["backbone.0.weight", "income >50K", "größe", "x" * 200])
def test_names(text: str) -> None:
    assert is_name(text)
