"""YAML read strictly: keys are unique, values are of JSON's types, and files are no larger than they look.

Other values of YAML (a date, a set, repeated repetitions that fill the memory) would fail late and far from their line.
Here file, line and key are known. Keys are text as it is written, such as participants called ``001`` and ``no``.
Values that YAML 1.1 reads otherwise than they look, ``010`` as 8 and ``1:30`` as 90, are refused.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from hetfed_lightning.cli.errors import ConfigError

LARGEST = 10_000_000
"""Largest size of a file, bytes."""

MOST = 100_000
"""Largest number of values in a configuration; a repeated one counts each time."""

DEEPEST = 50
"""Largest depth of nested mappings and lists."""

_TAG = "tag:yaml.org,2002:"
MERGE = f"{_TAG}merge"
"""The key ``<<``; keys of its value are added to those beside it, which win."""

TEXT = f"{_TAG}str"
_AS_WRITTEN = frozenset(_TAG + kind for kind in ("bool", "float", "int", "timestamp", "value"))
"""Types of keys that are read as their text."""

_OTHERWISE = re.compile(r"[-+]?(?:0[0-9_]+|[1-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)")
"""Numbers that are read otherwise than they look: ``010`` as 8, ``1:30`` as 90."""

_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
_PAIR = re.compile("([\ud800-\udbff])([\udc00-\udfff])")
_HALF = re.compile("[\ud800-\udfff]")
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_HINTS = (
    ("'\\t' that cannot start", "indent with spaces, not with a tab"),
    ("mapping values are not allowed", "a colon or its space is missing above, or text with a colon wants quotes"),
    ("could not find expected ':'", "a key needs a colon and a space after it"),
    ("cannot start any token", "text that begins with it needs quotes"),
)  # fmt: skip
"""Likely remedy, by a part of PyYAML's message."""


class StrictLoader(yaml.SafeLoader):
    """YAML loader in which a key is unique and text, and ``1e-3`` is a number."""

    depth = 0
    """Number of levels around the node that is being read."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Node of the document, at most ``DEEPEST`` levels deep; deeper ones would end in Python's own limit.

        Args:
            parent: Node around it.
            index: Its key or place there.

        Raises:
            ConfigError: If it is deeper.
        """
        self.depth += 1
        if self.depth > DEEPEST + 2:  # The document itself, and a value inside of the deepest.
            raise ConfigError(f"{self.name}: expected at most {DEEPEST} levels of lists and mappings, found more.")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Value of a node; an error names the line.

        Args:
            node: Node of the document.
            deep: True to construct nested values at once.

        Raises:
            ConfigError: If a value does not have the form that its tag asks for.
        """
        try:
            return super().construct_object(node, deep)
        except (ConfigError, yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # PyYAML's constructors let any error of Python's out.
            line, kind = node.start_mark.line + 1, str(node.tag).removeprefix(_TAG)
            why = f" ({error})" if isinstance(error, ValueError | OverflowError) else ""
            raise ConfigError(f"{self.name}, line {line}: {node.value!r:.60} cannot be read as {kind}{why}.") from error

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge the keys of ``<<`` into a mapping, up to a size: merges of merges multiply.

        Raises:
            ConfigError: If it becomes too large.
        """
        super().flatten_mapping(node)
        if len(node.value) > MOST:
            raise ConfigError(f"{self.name}, line {node.start_mark.line + 1}: more than {MOST} keys are merged here.")
        _take_keys_as_written(node)


def _take_keys_as_written(node: yaml.MappingNode) -> None:
    """Turn keys that YAML takes for numbers, truth values or dates back into text."""
    for place, (key, value) in enumerate(node.value):
        if isinstance(key, yaml.ScalarNode) and key.tag in {*_AS_WRITTEN, TEXT} and key.style is None:
            written = yaml.ScalarNode(TEXT, key.value, key.start_mark, key.end_mark, style="'")
            node.value[place] = (written, value)


def _construct_mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise TypeError("not a mapping")
    _take_keys_as_written(node)
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == MERGE:
            continue
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ConfigError(
                f"{loader.name}, line {line}: expected text as a key, found {key!r:.60}; put it in quotes."
            )
        if key in seen:
            raise ConfigError(f"{loader.name}: the key {key!r} stands in line {seen[key]} and again in line {line}.")
        seen[key] = line
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _construct_text(loader: StrictLoader, node: Any) -> str:
    """Text of a node; the two surrogates of a JSON escape beyond 0xffff become one character."""
    if node.style is None and _OTHERWISE.fullmatch(node.value):
        raise ConfigError(
            f"{loader.name}, line {node.start_mark.line + 1}: {node.value!r:.60} is another number to YAML than it "
            "looks; put it in quotes if it is text, or write it without the leading zero or the colon."
        )
    text = _PAIR.sub(lambda found: _joined(found[0]), loader.construct_scalar(node))
    if _HALF.search(text):
        raise ConfigError(
            f"{loader.name}, line {node.start_mark.line + 1}: {text!r:.60} holds half a character (a surrogate)."
        )
    return text


def _joined(pair: str) -> str:
    return pair.encode("utf-16", "surrogatepass").decode("utf-16")


def _construct_float(loader: StrictLoader, node: Any) -> float:
    number = loader.construct_yaml_float(node)
    if math.isinf(number) and "inf" not in node.value.lower():
        raise ConfigError(
            f"{loader.name}, line {node.start_mark.line + 1}: {node.value!r:.60} is more than a number can hold; write "
            ".inf for infinity."
        )
    return float(number)


StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in {f"{_TAG}int", f"{_TAG}float", f"{_TAG}value"}]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
StrictLoader.add_implicit_resolver(f"{_TAG}int", re.compile(f"(?:{_INTEGER.pattern})$"), list("-+0123456789"))
StrictLoader.add_implicit_resolver(f"{_TAG}float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+.0123456789"))
StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
StrictLoader.add_constructor(TEXT, _construct_text)
StrictLoader.add_constructor(f"{_TAG}float", _construct_float)


def read_config(path: str) -> dict[str, Any]:
    """Configuration in one file.

    Raises:
        ConfigError: If it is missing, is not UTF-8, is not YAML, repeats a key, holds a value that is neither text nor
            a number, is too large or too deep, or is no mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{path}: no such configuration file.")
    if file.stat().st_size > LARGEST:
        raise ConfigError(f"{path}: expected at most {LARGEST} bytes, found {file.stat().st_size}.")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected UTF-8 text, found byte 0x{error.object[error.start]:02x} at {error.start}."
        ) from error
    config = read_yaml(text, path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected keys such as trainer, model and data, found {type(config).__name__}.")
    return config


def read_yaml(text: str, name: str) -> Any:
    """Value of a YAML text.

    Args:
        text: One YAML document.
        name: Name of the file or option, for messages.

    Raises:
        ConfigError: As for :func:`read_config`.
    """
    try:
        loader = StrictLoader(text)
        loader.name = name
        found = loader.get_single_data()
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        hint = next((f" ({hint})" for part, hint in _HINTS if part in str(error)), "")
        raise ConfigError(f"{name}: not valid YAML: {error}{hint}") from error
    except RecursionError as error:
        raise ConfigError(f"{name}: expected at most {DEEPEST} levels of lists and mappings, found more.") from error
    except (ValueError, OverflowError) as error:  # An escape stands for no character.
        raise ConfigError(f"{name}: not valid YAML: {error}") from error
    size, depth = _checked(found, name, (), {})
    if size > MOST or depth > DEEPEST:
        raise ConfigError(
            f"{name}: expected at most {MOST} values in {DEEPEST} levels, found more: its anchors repeat each other."
        )
    return found


def _checked(value: Any, name: str, keys: tuple[str, ...], known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Numbers of values and of levels in a value; raises if one is of a type that JSON does not have."""
    if id(value) in known:
        return known[id(value)]
    where = f"{name}, {'.'.join(keys)}" if keys else name
    if len(keys) > DEEPEST:
        raise ConfigError(f"{where:.200}: expected at most {DEEPEST} levels of lists and mappings, found more.")
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        found = [_checked(inside, name, (*keys, str(key)), known) for key, inside in pairs]
        known[id(value)] = 1 + sum(size for size, _ in found), 1 + max((depth for _, depth in found), default=0)
        return known[id(value)]
    if value is not None and not isinstance(value, str | bool | int | float):
        kind = type(value).__name__
        raise ConfigError(
            f"{where}: expected text, a number, a list or a mapping, found a {kind} ({value!r:.60}); put it in quotes."
        )
    return 1, 0


def parser_text(value: Any) -> str:
    """Configuration as JSON that YAML's parsers read too: no surrogates, and infinity as in YAML.

    Args:
        value: Value as :func:`read_yaml` gives it.
    """
    if isinstance(value, dict):
        return f"{{{', '.join(f'{parser_text(str(key))}: {parser_text(inside)}' for key, inside in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(parser_text, value))}]"
    if isinstance(value, str):
        # JSON escapes such a character as two surrogates, which YAML parsers refuse.
        parts = [f"\\U{ord(one):08x}" if _ASTRAL.match(one) else json.dumps(one)[1:-1] for one in _pieces(value)]
        return f'"{"".join(parts)}"'
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return json.dumps(value)


def _pieces(text: str) -> list[str]:
    """Parts of a text, split around every character beyond 0xffff."""
    return [part for part in re.split(f"({_ASTRAL.pattern})", text) if part]
