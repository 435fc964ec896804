"""Docstrings for the reference: roles such as ``:class:`~module.Name``` become the name as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|exc|obj):`(?:[^`<]*<)?(~?)([\w.]+)>?`")


class Roles(griffe.Extension):
    """Turns the roles of each docstring into code."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of an object that was found."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_shown, obj.docstring.value)


def _shown(match: re.Match[str]) -> str:
    path = match[2]
    return f"`{path.rpartition('.')[2] if match[1] else path}`"
