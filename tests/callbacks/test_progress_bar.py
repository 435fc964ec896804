"""What the progress bar says: in a terminal by its bars' descriptions, elsewhere by the lines it writes."""

import re
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import CSVLogger

from hetfed_lightning import Federation, Participant
from hetfed_lightning.callbacks.progress_bar import FederatedProgressBar, round_description
from tests.federations import fit, tiny_data, tiny_federation, tiny_participant


class Other(TQDMProgressBar):
    """A bar of the user's."""


LINE = re.compile(
    r"Round (?P<round>\d+)/2 · 3 participants · own=(?P<own>[\d.]+) global=(?P<everyone>[\d.]+) "
    r"worst=(?P<worst>[\d.]+) \((?P<name>[abc])\) · [\d.]+ s"
)


def run(federation: Federation, bar: FederatedProgressBar, rounds: int = 2, **settings: Any) -> Any:
    data = settings.pop("data", None) or tiny_data(list(federation.members()))
    return fit(federation, data, rounds, bar, enable_progress_bar=True, **settings)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes standard output a terminal; what the bars say is noted in order, repetitions left out."""
    said: list[str] = []

    class Noted(Tqdm):
        def refresh(self, *args: Any, **kwargs: Any) -> Any:
            if not self.disable:
                # tqdm ends a description with ": ".
                text = f"{self.desc.removesuffix(': ')}|{self.postfix or ''}"
                said.extend([] if said[-1:] == [text] else [text])
            return super().refresh(*args, **kwargs)

    monkeypatch.setattr("lightning.pytorch.callbacks.progress.tqdm_progress.Tqdm", Noted)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    return said


# --------------------------------------------------------------------------------------------- in a terminal


def test_the_bar_tells_the_round_the_participants_and_the_metric(terminal: list[str], tmp_path: Path) -> None:
    made = run(tiny_federation(), FederatedProgressBar(), logger=CSVLogger(tmp_path))
    assert "Round 1/2 · 3 participants|" in terminal
    own = made.callback_metrics["federation/val_accuracy_mean"]
    everyone = made.callback_metrics["federation/val_global_accuracy_mean"]
    # Nothing else: no version number, no federation/..., no participant.
    assert terminal[-1] == f"Round 2/2 · 3 participants|own={own:.3f}, global={everyone:.3f}"


def test_a_newcomer_is_counted_from_its_round_on(terminal: list[str]) -> None:
    run(Federation({"a": tiny_participant(), "late": tiny_participant(seed=1, joins_at=1)}), FederatedProgressBar())
    assert any(said.startswith("Round 1/2 · 1 participant|") for said in terminal)
    assert any(said.startswith("Round 2/2 · 2 participants|") for said in terminal)


def test_every_data_set_is_called_by_its_owner(terminal: list[str]) -> None:
    federation, bar = tiny_federation(), FederatedProgressBar()
    made = run(federation, bar, 1, num_sanity_val_steps=1)
    made.test(federation, datamodule=tiny_data(), verbose=False)
    made.validate(federation, datamodule=tiny_data(), verbose=False)
    made.predict(federation, datamodule=tiny_data())
    for owner in ("a", "b", "c", "global"):
        for what in ("Sanity Checking", "Validation", "Testing"):
            assert f"{what} {owner}|" in terminal
    assert "Predicting b|" in terminal


def test_the_sanity_check_is_no_result(terminal: list[str]) -> None:
    run(tiny_federation(), FederatedProgressBar(), 1, num_sanity_val_steps=1)
    told = next(index for index, said in enumerate(terminal) if "|own=" in said)
    assert "Validation a|" in terminal[:told]


def test_what_a_participant_asks_for_is_shown_as_well(terminal: list[str]) -> None:
    class Telling(Participant):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("norm", 2.0, prog_bar=True)
            return super().training_step(batch, batch_idx)

    one = tiny_participant()
    run(Federation({"a": Telling(one.backbone, one.head)}), FederatedProgressBar(), 1)
    assert "norm/a=2.000" in terminal[-1]


def test_several_headline_metrics_are_told_apart(terminal: list[str]) -> None:
    federation = tiny_federation(["a", "b"])
    federation["b"].task.headline = "loss"
    federation["b"].task.higher_is_better = False
    run(federation, FederatedProgressBar(), 1)
    shown = dict(part.split("=") for part in terminal[-1].partition("|")[2].split(", "))
    assert list(shown) == ["own_accuracy", "own_loss", "global_accuracy", "global_loss"]


def test_a_bar_is_drawn_as_often_as_an_eye_sees(terminal: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    right = FederatedProgressBar._should_update
    hundredths = iter(range(10, 10_000))

    def note(self: FederatedProgressBar, current: int, total: int) -> bool:
        monkeypatch.setattr("hetfed_lightning.callbacks.progress_bar.perf_counter", lambda: 2 * next(hundredths) / 100)
        if due := right(self, current, total):
            drawn.append(current)
        return due

    monkeypatch.setattr(FederatedProgressBar, "_should_update", note)
    data = tiny_data(["a"], count=40, evaluated=False)
    run(tiny_federation(["a"]), FederatedProgressBar(), 1, data=data)
    # A batch takes 0.02 s, and there are ten; the last is always drawn.
    assert drawn == [1, 4, 7, 10]


@pytest.mark.parametrize(
    ("given", "kept"),
    [(None, FederatedProgressBar), (TQDMProgressBar(refresh_rate=5), TQDMProgressBar), (Other(), Other)],
)
def test_a_federation_brings_its_bar_unless_there_is_another(given: Any, kept: type) -> None:
    federation = tiny_federation()
    made = fit(federation, tiny_data(), 1, *([] if given is None else [given]), enable_progress_bar=True)
    bars = [one for one in made.callbacks if isinstance(one, ProgressBar)]  # type: ignore[attr-defined]
    assert [type(one) for one in bars] == [kept]
    assert made.progress_bar_callback is bars[0]
    made.test(federation, datamodule=tiny_data(), verbose=False)
    assert made.progress_bar_callback is bars[0]


def test_no_bar_is_no_bar() -> None:
    made = fit(tiny_federation(), tiny_data(), 1, enable_progress_bar=False)
    assert made.progress_bar_callback is None


def test_the_bar_writes_no_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run(tiny_federation(), FederatedProgressBar())
    written = capsys.readouterr()
    assert "Round 2/2 · 3 participants" in written.out
    assert "Round" not in written.err


# ------------------------------------------------------------------------------------- where there is none


@pytest.fixture(autouse=True)
def _no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of notebooks, in the same process, have imported what tells that one is open."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


def test_without_a_terminal_a_round_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    federation = tiny_federation()
    made = run(federation, FederatedProgressBar(), num_sanity_val_steps=1)
    made.test(federation, datamodule=tiny_data(), verbose=False)
    written = capsys.readouterr()
    assert "\r" not in written.out + written.err
    assert "Round" not in written.out
    lines = written.err.splitlines()
    found = [match for line in lines if (match := LINE.fullmatch(line))]
    assert [match["round"] for match in found] == ["1", "2"]
    assert len([line for line in lines if line.startswith("Round")]) == 2


def test_a_line_holds_the_figures_of_its_round(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run(tiny_federation(), FederatedProgressBar()).callback_metrics
    found = LINE.search(capsys.readouterr().err.splitlines()[-1])
    assert found
    assert found["own"] == f"{metrics['federation/val_accuracy_mean']:.3f}"
    assert found["everyone"] == f"{metrics['federation/val_global_accuracy_mean']:.3f}"
    assert found["worst"] == f"{metrics['federation/val_accuracy_worst']:.3f}"
    assert found["worst"] == f"{metrics['val_accuracy/' + found['name']]:.3f}"


def test_a_round_without_validation_repeats_no_old_figures(capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny_federation(), FederatedProgressBar(), 3, check_val_every_n_epoch=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Round")]
    assert ["own=" in line for line in lines] == [False, True, False]


def test_without_updates_it_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny_federation(), FederatedProgressBar(refresh_rate=0), 1)
    assert "Round" not in capsys.readouterr().err


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(L.Trainer, "is_global_zero", property(lambda _: False))
    run(tiny_federation(), FederatedProgressBar(), 1)
    assert "Round" not in capsys.readouterr().err


def test_in_a_notebook_the_lines_stand_below_the_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    run(tiny_federation(), FederatedProgressBar(), 1)
    written = capsys.readouterr()
    assert written.out.startswith("Round 1/1 · 3 participants · own=")
    assert "Round" not in written.err


def test_rounds_that_nobody_counted_are_not_promised() -> None:
    federation = tiny_federation()
    fit(federation, tiny_data(), 1)
    assert round_description(federation, -1) == "Round 2 · 3 participants"
    assert round_description(federation, None) == "Round 2 · 3 participants"
