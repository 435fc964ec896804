"""Figures of papers made again: the short ones to their tolerance, the long ones for a round."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.papers import main
from scripts.remaking import regressions, representation, stragglers, synthetic


@pytest.mark.slow
def test_corrected_methods_reach_the_minimiser_and_averages_do_not() -> None:
    assert all(figure.is_reached for figure in regressions.made_again(seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_fed_rep_solves_the_linear_problem_to_its_degrees_of_freedom(seed: int) -> None:
    assert all(figure.is_reached for figure in representation.made_again(seed))


@pytest.mark.slow
def test_the_long_ones_run() -> None:
    assert main(["--only", "synthetic", "stragglers", "--rounds", "1"]) == 1  # Nothing is reached in a round.


def test_a_synthetic_participant_has_labels_of_a_linear_model_and_sizes_above_fifty() -> None:
    training, test = synthetic.drawn(1, 1, 4, seed=27)
    for name, one in training.items():
        whole = len(one) + len(test[name])
        assert whole > 50
        assert len(one) == int(0.9 * whole)
        assert one.inputs.shape == (len(one), 60)  # type: ignore[union-attr]
    again, _ = synthetic.drawn(1, 1, 4, seed=27)
    assert torch.equal(torch.as_tensor(again["p00"].inputs), torch.as_tensor(training["p00"].inputs))
    spread = np.concatenate([np.asarray(one.inputs) - np.asarray(one.inputs).mean(0) for one in training.values()])
    assert np.allclose(spread.std(0)[:3], np.arange(1, 4) ** -0.6, rtol=0.15)


def test_nine_in_ten_straggle_and_come_less_far() -> None:
    method = stragglers.Stragglers(lambda _: [f"p{place}" for place in range(10)], keeps=True, proximal=0.0, seed=3)
    for round_index in range(20):
        epochs = list(method.epochs(round_index).values())
        assert epochs.count(stragglers.EPOCHS) == 1
        assert min(epochs) >= 1
