"""pFedMe's Synthetic(.5, .5): FedAvg and pFedMe on 100 participants, ten of them averaged (Dinh et al. 2020)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hetfed_lightning import BackboneAveraging, FederatedDataModule
from hetfed_lightning.data import Examples
from hetfed_lightning.methods.common_model import COMMON
from hetfed_lightning.methods.published.p_fed_me import PFedMe
from scripts.remaking.figures import Figure
from scripts.remaking.fitting import fit
from scripts.remaking.synthetic import accuracy, drawn, softmax_regressions

RATE, STEPS, BATCH = 0.01, 20, 20
LAM, INNER, BETA = 20.0, 5, 2.0
PERSONAL, COMMON_TARGET = "83.2 +- .4 (paper 83.20)", "78.4 +- .4 (paper 78.65)"
"""Settings of pFedMe's code for these data: lambda, inner steps to each of ``w_k``, and the server's beta."""


def alone(training: dict[str, Examples], test: dict[str, Examples], steps: int = 50) -> float:
    """Accuracy of a softmax regression of each participant's own, by full-batch L-BFGS, in percent.

    Args:
        training: Training sets.
        test: Test sets.
        steps: Most iterations.
    """
    found = {}
    for name, one in training.items():
        inputs, targets = torch.as_tensor(one.inputs), torch.as_tensor(one.targets)
        layer = torch.nn.Linear(inputs.shape[1], 10)
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

        def closure(layer: torch.nn.Linear = layer, inputs: Tensor = inputs, targets: Tensor = targets) -> float:
            layer.zero_grad()
            penalty = 1e-4 * layer.weight.square().sum()
            loss: Tensor = torch.nn.functional.cross_entropy(layer(inputs), targets) + penalty
            loss.backward()
            return float(loss)

        optimizer.step(closure)
        with torch.no_grad():
            found[name] = layer(torch.as_tensor(test[name].inputs))
    return accuracy(found, test)


def personal_and_common(
    training: dict[str, Examples], test: dict[str, Examples], seed: int, rounds: int
) -> tuple[float, float]:
    """Accuracies of pFedMe's personal models, each on its own test set, and of its common model, in percent.

    Args:
        training: Training sets.
        test: Test sets.
        seed: Of batches and of who is averaged.
        rounds: Number of rounds, in which all train and ten are averaged.
    """
    federation = softmax_regressions(list(training), RATE, seed, participation=1.0)
    method = PFedMe(LAM, RATE, inner_steps=INNER, local_rounds=STEPS, beta=BETA, averaged=0.1, seed=seed)
    fit(federation, FederatedDataModule(training, batch_size=BATCH), rounds, method, double=False)
    with torch.no_grad():
        inputs = {name: torch.as_tensor(one.inputs) for name, one in test.items()}
        personal = {name: federation[name](one) for name, one in inputs.items()}
        common = {name: federation[name].modules_of(method.title)[COMMON](one) for name, one in inputs.items()}
    return accuracy(personal, test), accuracy(common, test)


def made_again(seed: int, rounds: int | None = None) -> list[Figure]:
    """Accuracy of FedAvg's and pFedMe's models over all test examples, and of local ones.

    Args:
        seed: Of batches and samples; the data are those of seed 0.
        rounds: Number of rounds; None for the paper's 600.
    """
    count = rounds or 600
    training, test = drawn(0.5, 0.5, 100, 0, times=5, train=0.75)
    federation = softmax_regressions(
        list(training), RATE, seed, participation=0.1, local_epochs=STEPS, step_budget=STEPS
    )
    average = BackboneAveraging(max_share=1.0)
    fit(federation, FederatedDataModule(training, batch_size=BATCH), count, average, double=False)
    # Those who were not sampled have an older model; who was has the newest.
    newest = federation[federation.active_names(count - 1)[0]]
    with torch.no_grad():
        common = accuracy({name: newest(torch.as_tensor(one.inputs)) for name, one in test.items()}, test)
    sizes = np.array([len(one) for one in training.values()])
    setting = f"Synthetic(.5, .5), {sizes.sum()} examples"
    personal, ours = personal_and_common(training, test, seed, count)
    return [
        Figure(f"FedAvg, {setting}", f"accuracy in %, {count} rounds", common, 75.9, 79.1, "77.5 +- .8 (paper 77.62)"),
        Figure(f"pFedMe, personal, {setting}", f"accuracy in %, {count} rounds", personal, 82.2, 84.3, PERSONAL),
        Figure(f"pFedMe, common, {setting}", f"accuracy in %, {count} rounds", ours, 77.6, 79.3, COMMON_TARGET),
        Figure(f"local only, {setting}", "accuracy in %", alone(training, test), common, 100, "above FedAvg"),
    ]
