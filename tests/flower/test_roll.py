"""Who is there, without a grid."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from hetfed_lightning.flower.exchange import Fault
from hetfed_lightning.flower.roll import Roll


def test_a_site_that_cannot_describe_itself_is_named_once_for_each_reason(caplog: pytest.LogCaptureFixture) -> None:
    reasons = ["ConfigError", "ConfigError", "ConfigError", "DataError", "DataError"]
    exchange: Any = SimpleNamespace(
        nodes={},
        online=lambda: {7: "hospital_a"},
        describe=lambda nodes, deadline: {node: Fault(reasons[len(asked)]) for node in nodes},
    )
    asked: list[int] = []
    roll = Roll(["hospital_a"], exchange, 1.0)
    with caplog.at_level(logging.WARNING):
        for _ in reasons:
            assert roll.look(0) == []
            asked.append(1)
    assert caplog.messages == ["Node 7 (hospital_a): ConfigError.", "Node 7 (hospital_a): DataError."]
