"""Content of a checkpoint is there for the moments that use it, and forgotten after the first round."""

from pathlib import Path

import torch

from hetfed_lightning import BackboneAveraging
from hetfed_lightning.federation.resumed_run import ResumedRun
from hetfed_lightning.federation.round_state import RoundState
from tests.federations import fit, tiny_data, tiny_federation


def test_a_round_is_found_if_the_checkpoint_was_made_in_it(tmp_path: Path) -> None:
    trained = tiny_federation()
    fit(trained, tiny_data(), 2, BackboneAveraging()).save_checkpoint(tmp_path / "two.ckpt")
    federation = tiny_federation()
    federation.on_load_checkpoint(torch.load(tmp_path / "two.ckpt", weights_only=True))
    resumed = federation.resumed
    assert resumed.run == trained.resumed.run
    assert resumed.rounds_done(otherwise=7) == 2
    assert resumed.round_saved(1)["bytes"]["bytes_up"] == trained.bytes_up > 0
    assert not resumed.round_saved(0)
    assert federation.schedules.rounds == 2
    resumed.end()
    assert not resumed.round_saved(1)
    assert resumed.rounds_done(otherwise=7) == 7


def test_without_a_checkpoint_there_is_nothing() -> None:
    resumed = ResumedRun()
    assert not resumed.round_saved(-1)
    assert not resumed.round_saved(0)
    assert not resumed.metrics
    assert resumed.rounds_done(otherwise=0) == 0
    assert not resumed.is_before_validation


def test_a_round_goes_on_with_its_counters() -> None:
    federation = tiny_federation()
    fit(federation, tiny_data(), 1, BackboneAveraging())
    federation.quarantine("b", "a reason")
    saved = federation.round_state.state_dict(federation.local, federation.logbook)
    state = RoundState()
    state.open(0, {})
    assert state.byte_count.up == 0
    state.load_state_dict(saved, federation.local, federation.logbook, torch.device("cpu"))
    assert state.byte_count.figures() == federation.byte_count.figures()
    assert state.guard.quarantined == {"b": "a reason"}
