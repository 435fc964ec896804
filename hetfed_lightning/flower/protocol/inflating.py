"""Bound on arrays that are joined from pieces, since a message may name one piece a million times.

The engine joins the pieces of an array while it hands a message out, before anything can be checked: 1 MB and a list of
numbers become a terabyte. Its `Array.inflate` is wrapped once, and counts bytes within :func:`at_most` alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from flwr.app import Array
from flwr.supercore.inflatable.inflatable_object import get_object_body, get_object_children_ids_from_object_content

_left: ContextVar[int | None] = ContextVar("bytes of arrays that may still be put together", default=None)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Context in which arrays joined from pieces take no more than ``size`` bytes together.

    Args:
        size: Bytes.

    Raises:
        ValueError: From the engine, if they would take more.
    """
    token = _left.set(size)
    try:
        yield
    finally:
        _left.reset(token)


_inflate: Any = vars(Array)["inflate"].__func__


def _bounded(cls: type[Array], object_content: bytes, children: Mapping[str, Any] | None = None) -> Any:
    left = _left.get()
    if left is not None:
        names = get_object_children_ids_from_object_content(object_content)
        places = json.loads(get_object_body(object_content, cls))["arraychunk_ids"]
        size = sum(len((children or {})[names[place]].data) for place in places)
        if size > left:
            raise ValueError(f"arrays of more than {left} bytes, which is all that was asked for")
        _left.set(left - size)
    return _inflate(cls, object_content, children)


Array.inflate = classmethod(_bounded)  # type: ignore[assignment]  # of the same parameters and result
