"""YAML for people: sections in a chosen order, each below a remark."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

import yaml

WIDTH = 116


class _Dumper(yaml.SafeDumper):
    """Dumper that indents lists below their key, as people do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists too."""
        del indentless
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """True, so that a repeated value is written out each time."""
        del data
        return True


def yaml_text(sections: Mapping[str, Any], remarks: Mapping[str, str], head: str) -> str:
    """YAML document with comments.

    Args:
        sections: Values by key, in order; None is left out.
        remarks: Remark above a key; line breaks separate paragraphs, and those that begin with spaces are not wrapped.
        head: Remark above all.
    """
    parts = [commented(head)]
    for key, value in sections.items():
        if value is None:
            continue
        remark = remarks.get(key)
        parts.append(("\n" + commented(remark) if remark else "") + _dumped({key: value}))
    return "".join(parts)


def commented(text: str) -> str:
    """Lines of comments, wrapped."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        lines += [paragraph] if paragraph.startswith(" ") or not paragraph else textwrap.wrap(paragraph, WIDTH)
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _dumped(value: Mapping[str, Any]) -> str:
    # Numbers of the parser's own kinds become plain ones.
    return yaml.dump(json.loads(json.dumps(value)), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
