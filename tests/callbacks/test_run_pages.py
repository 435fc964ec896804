"""Pages, pictures and charts that a fit and a coordinator have in common."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from matplotlib.figure import Figure

from hetfed_lightning import BackboneAveraging, EnsembleDistillation
from hetfed_lightning.callbacks.run_pages import Charts, agreement_of, introduce, show_agreement
from hetfed_lightning.logs.metric_store import quarantine_flags


class Noted:
    """Board that notes what it is given."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object, int]] = []

    def page(self, name: str, text: str, step: int) -> None:
        self.told.append((name, text, step))

    def picture(self, name: str, content: object, draw: Callable[[], Figure], step: int) -> None:
        assert isinstance(draw(), Figure)
        self.told.append((name, content, step))


def distillation(names: list[str], rows: list[list[float]]) -> EnsembleDistillation:
    made = EnsembleDistillation()
    made.agreement = tuple(names), torch.tensor(rows)
    return made


def test_charts_change_with_new_tags_and_names_alone() -> None:
    charts = Charts(["val_loss/a"])
    charts.add(["federation/bytes_up"])
    first = charts.changed(["a"])
    assert first is not None
    assert [*first["participants"], *first["federation"]] == ["val_loss", "bytes per round"]
    charts.add(["val_loss/a", "quarantined/a"])
    assert charts.changed(["a"]) is None
    again = charts.changed(["a", "b"])
    assert again is not None
    assert again["participants"]["val_loss"] == ["Multiline", ["val_loss/a", "val_loss/b"]]
    charts.add(["val_loss/b"])
    assert charts.changed(["a", "b"]) is None, "the chart of this metric is there already"


def test_a_run_without_configuration_averages_and_labels_has_the_participants_alone() -> None:
    board, averaging = Noted(), BackboneAveraging()
    introduce(board, [], 0, config=None, callbacks=[L.Callback(), averaging], label_counts={}, step=3)
    assert [(name, step) for name, _, step in board.told] == [("federation/participants", 3)]
    averaging.report, board.told = "a and b average 8 B", []
    introduce(board, [], 0, config="seed: 0", callbacks=[averaging], label_counts={"a": [1, 2]}, step=0)
    told: dict[str, Any] = {name: content for name, content, _ in board.told}
    assert [*told] == ["federation/participants", "config", "federation/sharing", "federation/label_distribution"]
    assert "seed: 0" in told["config"]
    assert told["federation/sharing"] == "a and b average 8 B"


def test_the_last_distillation_says_what_the_teachers_agree_on() -> None:
    silent, board = EnsembleDistillation(), Noted()
    show_agreement(board, agreement_of([BackboneAveraging(), silent]), 1)
    assert board.told == []
    found = agreement_of([distillation(["a", "b"], [[1, 0.5], [0.5, 1]]), distillation(["c"], [[1]]), silent])
    assert found == {"names": ["c"], "matrix": [[1.0]]}
    show_agreement(board, found, 2)
    assert board.told == [("federation/teacher_agreement_matrix", found, 2)]


def test_flags_of_quarantine_name_everyone_who_ever_was() -> None:
    assert quarantine_flags([], {}) == {}
    flags = quarantine_flags(["c", "a", "c"], {"b": "its loss is nan"})
    assert [*flags.items()] == [("quarantined/a", 0.0), ("quarantined/b", 1.0), ("quarantined/c", 0.0)]
