"""Tensors of any shape and dtype, and numbers of any size, given to what computes: a result, or a sentence of ours."""

from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from hetfed_lightning import FederatedDataModule, Federation, Participant
from hetfed_lightning.aggregation import TrimmedMean, coordinate_median, weighted_mean
from hetfed_lightning.aggregation.state import check_states
from hetfed_lightning.data import IID, DataError, Dirichlet, Examples, Pathological, QuantitySkew
from hetfed_lightning.data.splits import split_train_val_test
from hetfed_lightning.distillation import (
    ClassPriorWeighted,
    MeanLogits,
    MeanProbabilities,
    MedianProbabilities,
    SampleWeighted,
    ValidationWeighted,
    distillation_loss,
)
from hetfed_lightning.distillation.teachers import Teachers
from tests.conftest import Tally
from tests.federations import fit
from tests.inputs.test_fuzzed_files import faults, told

pytestmark = [pytest.mark.promise("fuzzed"), pytest.mark.filterwarnings("ignore")]

NUMBERS = st.one_of(
    st.integers(-3, 12),
    st.floats(),
    st.sampled_from([True, None, "x", 10**30, -(10**30), 2**63, 0.5, [1], (), 1e-300, float("nan"), float("inf")]),
)
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
DTYPES = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]
)
FILLS = st.sampled_from([0, 1, 2, -1, 5, float("nan"), float("inf"), 6e4])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A tensor of any shape and dtype."""
    dtype, fill, shape = draw(DTYPES), draw(FILLS), draw(SHAPES)
    if not (dtype.is_floating_point or dtype.is_complex):
        fill = int(fill) % 2 if fill == fill and abs(fill) < 1e9 else 1  # noqa: PLR0124 - NaN
    made = torch.full(shape, fill, dtype=dtype) if dtype != torch.bool else torch.ones(shape, dtype=dtype)
    if draw(st.booleans()) and made.numel():
        made.view(-1)[0] = 3 if dtype != torch.bool else False
    return made


COUNTS = st.integers(1, 60)
LABELS = st.one_of(tensors(), st.lists(st.integers(-1, 4), max_size=40).map(lambda values: torch.tensor(values).long()))


def test_partitions(full: bool, tally: Tally) -> None:
    def check(case: tuple[Any, Any, Any, Tensor, Any, Any]) -> None:
        kind, one, other, labels, participants, seed = case
        arguments = {IID: (), Pathological: (one,), Dirichlet: (one, other), QuantitySkew: (one, other)}[kind]
        kind(*arguments)(labels, participants, seed)

    kinds = st.sampled_from([IID, Pathological, Dirichlet, QuantitySkew])
    sizes = st.one_of(st.integers(1, 5), NUMBERS)
    cases = st.tuples(kinds, NUMBERS, sizes, LABELS, sizes, sizes)
    told(tally, *faults(check, cases, 5000 if full else 150))


def test_splits(full: bool, tally: Tally) -> None:
    def check(case: tuple[Any, Any, Any, Any]) -> None:
        samples, fractions, seed, stratify = case
        split_train_val_test(samples, fractions, seed, stratify=stratify)

    shares = st.one_of(st.just((0.6, 0.2, 0.2)), st.tuples(NUMBERS, NUMBERS, NUMBERS))
    cases = st.tuples(st.one_of(st.integers(-2, 50), LABELS), shares, st.one_of(st.just(0), NUMBERS), st.booleans())
    told(tally, *faults(check, cases, 5000 if full else 150))


def test_states(full: bool, tally: Tally) -> None:
    """As callbacks do, states are checked before a rule computes with them."""

    def check(case: tuple[Any, list[dict[str, Tensor]], Tensor]) -> None:
        rule, states, weights = case
        check_states(states, weights)
        rule(states, weights)

    rules = st.sampled_from([weighted_mean, coordinate_median, TrimmedMean(0.2)])
    states = st.lists(st.dictionaries(st.sampled_from(["a", "b"]), tensors(), max_size=2), max_size=3)
    alike = st.tuples(st.dictionaries(st.sampled_from(["a", "b"]), tensors(), min_size=1), st.integers(1, 3)).map(
        lambda pair: [pair[0]] * pair[1]
    )
    weights = st.one_of(tensors(), st.integers(1, 3).map(torch.ones))
    told(tally, *faults(check, st.tuples(rules, st.one_of(states, alike), weights), 5000 if full else 150))


def test_answers(full: bool, tally: Tally) -> None:
    def check(case: tuple[Any, Any, Tensor, Any, Any, Any, Any, Tensor]) -> None:
        ensemble, kind, logits, samples, counts, scores, temperature, student = case
        names = tuple("abcd"[: logits.shape[0] if logits.ndim else 1])
        target = ensemble(Teachers(logits, kind, names, samples, counts, scores), temperature)
        distillation_loss(student, target, temperature, kind)

    ensembles = st.sampled_from(
        [one() for one in (MeanLogits, MeanProbabilities, MedianProbabilities, SampleWeighted, ClassPriorWeighted)]
        + [ValidationWeighted()]
    )
    kinds = st.sampled_from(["multiclass", "binary", "multilabel", "regression"])
    logits = st.one_of(tensors(), st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)).map(torch.randn))
    few = st.one_of(st.none(), tensors(), st.integers(1, 3).map(torch.ones))
    cases = st.tuples(
        ensembles, kinds, logits, few, few, few, st.one_of(st.just(2.0), st.floats()), st.one_of(tensors(), logits)
    )
    told(tally, *faults(check, cases, 5000 if full else 150))


def test_inputs_and_labels(full: bool, tally: Tally) -> None:
    def check(case: tuple[Tensor, Tensor, Any, Any]) -> None:
        inputs, targets, task, width = case
        data = FederatedDataModule({"a": Examples(inputs, targets)}, batch_size=2)
        fit(Federation({"a": Participant(nn.Linear(4, 4), nn.Linear(4, width), task=task)}), data, 1)

    right = st.tuples(st.integers(1, 3), st.just(4)).map(torch.randn)
    tasks = st.sampled_from(["multiclass", "binary", "multilabel", "regression"])
    cases = st.tuples(st.one_of(tensors(), right), st.one_of(LABELS, LABELS, tensors()), tasks, st.integers(1, 3))
    told(tally, *faults(check, cases, 1000 if full else 30, "participant 'a'"))
    assert issubclass(DataError, ValueError)


def test_complex_numbers_of_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected samples that are real numbers, got torch\.complex64"):
        Teachers(torch.zeros(1, 2, 3), "multiclass", ("a",), samples=torch.ones(1, dtype=torch.complex64))
