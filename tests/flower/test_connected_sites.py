"""Who is there, without a grid."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from hetfed_lightning.flower.coordinator.connected_sites import ConnectedSites
from hetfed_lightning.flower.coordinator.messenger import Node
from hetfed_lightning.flower.coordinator.requests import Fault


def test_a_site_that_cannot_describe_itself_is_named_once_for_each_reason(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = ["ConfigError", "ConfigError", "ConfigError", "DataError", "DataError"]
    messenger: Any = SimpleNamespace(
        nodes={},
        online=lambda: {7: Node("hospital_a", "1")},
        describe=lambda nodes, deadline: {node: Fault(reasons[len(asked)]) for node in nodes},
    )
    asked: list[int] = []
    sites = ConnectedSites(["hospital_a"], messenger, 1.0)
    monkeypatch.setattr("hetfed_lightning.flower.coordinator.connected_sites.PATIENCE", 0.0)
    with caplog.at_level(logging.WARNING):
        for _ in reasons:
            assert sites.look(0) == []
            asked.append(1)
    assert caplog.messages == [f"hospital_a does not describe itself: {kind}." for kind in ("ConfigError", "DataError")]
