"""The simplest models on each participant's own data: logistic or ridge regression, and the majority or the mean.

A federation that is not above them has learned nothing that they have not. scikit-learn fits them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hetfed_lightning.cli.benchmark.results import Figure
from hetfed_lightning.cli.benchmark.suite import LINEAR
from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.module import FederatedData
from hetfed_lightning.federation.federation import Federation
from hetfed_lightning.metrics import value_of

Array = NDArray[np.float64]
Model = Callable[[Array], Array]
"""From inputs, shape ``(N, D)``, to outputs, shape ``(N, C)``."""

LEAST = 1e-12
"""Probability of classes that a participant has never seen."""


def simplest_figures(federation: Federation, data: FederatedData, kind: str) -> list[Figure]:
    """Test figures of a simplest model at every participant, fitted to its own training data.

    Args:
        federation: Federation whose participants' tasks say what is measured; nobody is trained.
        data: Data of all participants.
        kind: ``"linear"`` or ``"majority"``.

    Raises:
        ConfigError: If data are not in memory, or a task has neither classes nor values.
    """
    figures = []
    for name, participant in federation.members().items():
        task = participant.task
        train = examples_of(data.train[name], name)
        targets = np.asarray(_targets(train, name))
        inputs = train.inputs
        first = {key: one[:1] for key, one in inputs.items()} if isinstance(inputs, Mapping) else inputs[:1]
        width = participant.predict(first).reshape(1, -1).shape[1]
        columns = columns_of(train)
        model = fitted(columns, targets, task.kind, width, kind, name)
        own = _measured(task, width, model, data.test.get(name), name, columns.shape[1])
        everyone = _measured(task, width, model, data.global_test, name, columns.shape[1])
        figures += [
            Figure(
                name,
                metric,
                own.get(metric, math.nan),
                everyone.get(metric, math.nan),
                task.prefers_higher(metric),
                metric == task.headline,
            )
            for metric in dict.fromkeys([*own, *everyone])
        ]
    return figures


def fitted(inputs: Array, targets: NDArray[Any], task: str, width: int, kind: str, name: str = "") -> Model:
    """Model fitted to a training set; gaps in the inputs are filled with means, and columns scaled.

    Args:
        inputs: Shape ``(N, D)``; NaN stands for a gap.
        targets: Shape ``(N,)``, classes as integers, or values of shape ``(N,)`` or ``(N, C)``.
        task: Kind of task: ``"multiclass"``, ``"binary"`` or ``"regression"``.
        width: Width C of the outputs.
        kind: ``"linear"`` for logistic (C = 1) or ridge regression (penalty 1), ``"majority"`` for shares or means.
        name: Participant, for messages.

    Returns:
        Model whose outputs are logits of classes, or values.

    Raises:
        ConfigError: If the task is of another kind.
    """
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    prepared = (SimpleImputer(keep_empty_features=True), StandardScaler())
    if task == "regression":
        values = make_pipeline(*prepared, Ridge() if kind == LINEAR else DummyRegressor())
        values.fit(inputs, targets)
        return lambda found: np.asarray(values.predict(found), dtype=np.float64).reshape(len(found), width)
    if task not in {"multiclass", "binary"}:
        raise ConfigError(f"participant {name!r}: there is no simplest model for a task of kind {task!r}.")
    labels = targets.reshape(-1)
    linear = kind == LINEAR and len(np.unique(labels)) > 1  # With a single class there is nothing to separate.
    chosen = LogisticRegression(max_iter=1000) if linear else DummyClassifier(strategy="prior")
    classes = make_pipeline(*prepared, chosen)
    classes.fit(inputs, labels)
    known = classes.classes_.astype(int)

    def logits(found: Array) -> Array:
        shares = np.full((len(found), 2 if task == "binary" else width), LEAST)
        shares[:, known] = np.maximum(classes.predict_proba(found), LEAST)
        logs = np.log(shares)
        return np.asarray(logs[:, 1:] - logs[:, :1] if task == "binary" else logs)

    return logits


def examples_of(dataset: Dataset[Any], name: str) -> Examples:
    """The data set, which has to be in memory.

    Raises:
        ConfigError: If it is not.
    """
    if not isinstance(dataset, Examples):
        raise ConfigError(f"participant {name!r}: simplest models are fitted to data in memory alone (`Examples`).")
    return dataset


def columns_of(examples: Examples) -> Array:
    """Inputs of all examples, flattened and side by side, shape ``(N, D)``."""
    inputs = examples.inputs
    parts: list[Tensor] = [inputs[key] for key in sorted(inputs)] if isinstance(inputs, Mapping) else [inputs]
    return np.concatenate([part.reshape(len(part), -1).double().numpy() for part in parts], axis=1)


def _targets(examples: Examples, name: str) -> Tensor:
    if examples.targets is None:
        raise ConfigError(f"participant {name!r}: its training data have no targets.")
    return examples.targets


def _measured(
    task: Any, width: int, model: Model, dataset: Dataset[Any] | None, name: str, columns: int
) -> dict[str, float]:
    if dataset is None:
        return {}
    examples = examples_of(dataset, name)
    found = columns_of(examples)
    if found.shape[1] != columns:
        return {}
    outputs = torch.as_tensor(model(found), dtype=torch.float32)
    target = _targets(examples, name)
    values = {}
    for metric, measure in task.metrics(width).items():
        measure.update(task.predictions(outputs), task.metric_target(target))
        values[metric] = value_of(measure)
    return values
