"""YAML as configurations have it: any valid document is read as it is meant, any other named by file and line."""

import itertools
import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse._loaders_dumpers import yaml_load

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.cli.strict_yaml import parser_text, read_yaml

TAGS = ("binary", "bool", "float", "int", "map", "merge", "null", "omap", "pairs", "seq", "set", "str", "timestamp",
        "value", "python/name:os.system", "nothing", "<tag:yaml.org,2002:int>")  # fmt: skip
CONTENTS = ('""', "x", "1", "0x", "1:2:x", "2020-99-99", ".", "-", "[1]", "[a: 1, 2]", "{a: 1}", "[]", "{}", "%%",
            "9" * 5000)  # fmt: skip


def is_read_or_named(text: str) -> bool:
    try:
        read_yaml(text, "f.yaml")
    except ConfigError as error:
        return str(error).startswith("f.yaml")
    return True


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_that_does_not_fit_is_named_with_its_line(tag: str) -> None:
    written = tag if tag.startswith("<") else f"!{tag}"
    for content, place in itertools.product(CONTENTS, ("a: {}", "- {}", "? {}\n: 1", "a: {{b: {}}}")):
        text = "\n" + place.format(f"!{written} {content}")
        assert is_read_or_named(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: !!timestamp x", "f, line 1: 'x' cannot be read as timestamp"),
        ("a: 1\nb: !!bool x", "f, line 2: 'x' cannot be read as bool"),
        ('a: !!int ""', "f, line 1: '' cannot be read as int"),
        ("a: !!map x", "f, line 1: 'x' cannot be read as map"),
        ("a: 1e400", "f, line 1: '1e400' is more than a number can hold; write .inf"),
        ('a: "\\ud83d"', "f, line 1: '\\ud83d' holds half a character"),
        ('a: "\\U00110000"', "f: not valid YAML: chr() arg not in range"),
        ("a: 010", "f, line 1: '010' is another number to YAML than it looks; put it in quotes if it is text"),
        ("[001, 002]", "f, line 1: '001' is another number"),
        ("a: 1:30", "f, line 1: '1:30' is another number"),
        ("\ta: 1", "(indent with spaces, not with a tab)"),
        ("a 1\nb: 2", "(a colon or its space is missing above, or text with a colon wants quotes)"),
        ("a: b: 2", "(a colon or its space is missing above, or text with a colon wants quotes)"),
        ("a:\n  b\n  c: 1\n d: 2", "not valid YAML"),
        ("~: 1", "f, line 1: expected text as a key, found None"),
        ("[" * 100_000, "f: expected at most 50 levels"),
        ("- " * 100_000, "f: expected at most 50 levels"),
        ("{a: " * 100_000, "f: expected at most 50 levels"),
        ("? " * 100_000, "f: expected at most 50 levels"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        read_yaml(text, "f")
    assert words in str(told.value)
    assert str(told.value).startswith("f")


@pytest.mark.parametrize("depth", [1, 49])
def test_fifty_levels_are_read(depth: int) -> None:
    found = read_yaml("[" * depth + "1" + "]" * depth, "f")
    for _ in range(depth):
        [found] = found
    assert found == 1


def test_keys_are_text_as_it_is_written() -> None:
    written = ["001", "no", "010", "1.50", "2020-01-01", "1:30", "=", "on", "'x'", '"\\ud83d\\ude00"', "7", "0o7"]
    text = "\n".join(f"{key}: {value}" for key, value in zip(written, "abcdefghijkl", strict=True))
    keys = ["001", "no", "010", "1.50", "2020-01-01", "1:30", "=", "on", "x", "\U0001f600", "7", "0o7"]
    assert read_yaml(text, "f") == dict(zip(keys, "abcdefghijkl", strict=True))
    assert read_yaml("a: &a {001: 1}\nb: {<<: *a, no: 2}", "f") == {"a": {"001": 1}, "b": {"001": 1, "no": 2}}
    with pytest.raises(ConfigError, match="the key '1' stands in line 1 and again in line 2"):
        read_yaml("1: a\n'1': b", "f")


def test_values_keep_their_kinds() -> None:
    text = "[yes, off, ~, 0, -7, 0x1F, 0b11, 1_000, 1e-3, .5, 1., -.inf, '010', =, 0.10, 08x, 1:99]"
    found = read_yaml(text, "f")
    assert found == [True, False, None, 0, -7, 31, 3, 1000, 1e-3, 0.5, 1.0, -math.inf, "010", "=", 0.1, "08x", "1:99"]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["a", "no", "001", "\U0001f600"]), PLAIN, min_size=1))
def test_the_parser_reads_what_the_files_say(config: dict[str, Any]) -> None:
    assert yaml_load(parser_text({"x": 1} | config)) == {"x": 1} | config  # type: ignore[no-untyped-call]  # theirs


@given(PLAIN)
def test_what_yaml_writes_is_read(value: Any) -> None:
    for unicode in (True, False):
        assert read_yaml(yaml.safe_dump({"a": value}, allow_unicode=unicode), "f") == {"a": value}


@given(st.text(alphabet=st.sampled_from("ab01!&*?:-,[]{}#|>'\"%@`\n\t .=~<\\ue\ud83d\ude00\U0001f600\x85\x7f")))
def test_any_text_is_read_or_named(text: str) -> None:
    assert is_read_or_named(text)
