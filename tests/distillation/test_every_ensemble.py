"""One battery for every ensemble in the package: a new file is tested before anyone writes a test for it."""

import dataclasses
import importlib
import inspect
import math
import pickle
import pkgutil
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch import Tensor

from hetfed_lightning import distillation
from hetfed_lightning.distillation import Ensemble, OutputKind, Teachers, distillation_loss, soften

COUNT, SAMPLES = 5, 11
KINDS: tuple[OutputKind, ...] = get_args(OutputKind)
KNOWN = ("samples", "class_counts", "scores")


def ensembles() -> Iterator[Ensemble]:
    """Every ensemble class of the package, built with its defaults."""
    for info in pkgutil.iter_modules(distillation.__path__, f"{distillation.__name__}."):
        module = importlib.import_module(info.name)
        for thing in vars(module).values():
            if not inspect.isclass(thing) or thing.__module__ != module.__name__:
                continue
            if issubclass(thing, Ensemble) and not inspect.isabstract(thing):
                yield thing()


ENSEMBLES = {type(ensemble).__name__: ensemble for ensemble in ensembles()}
every_ensemble = pytest.mark.parametrize("ensemble", ENSEMBLES.values(), ids=ENSEMBLES)
every_case = pytest.mark.parametrize(
    ("ensemble", "kind"),
    [pytest.param(e, kind, id=f"{name}-{kind}") for name, e in ENSEMBLES.items() for kind in e.kinds],
)
every_case_of_outputs = pytest.mark.parametrize(
    ("ensemble", "kind"),
    [
        pytest.param(e, kind, id=f"{name}-{kind}")
        for name, e in ENSEMBLES.items()
        for kind in e.kinds
        if not e.has_own_message
    ],
)


def make_teachers(
    kind: OutputKind,
    count: int = COUNT,
    dtype: torch.dtype = torch.float32,
    ensemble: Ensemble | None = None,
) -> Teachers:
    """Teachers that differ, with everything known of them; one class is known to nobody."""
    generator = torch.Generator().manual_seed(0)
    columns = 1 if kind == "binary" else 4
    says_own = ensemble is not None and ensemble.has_own_message
    said = columns * 2 if says_own and kind != "multiclass" else columns
    class_counts = torch.randint(0, 50, (count, 2 if kind == "binary" else columns), generator=generator)
    class_counts[:, -1] = 0
    return Teachers(
        logits=(4 * torch.randn(count, SAMPLES, said, generator=generator)).to(dtype),
        kind=kind,
        names=tuple(f"teacher{index}" for index in range(count)),
        samples=torch.arange(count) + 1,
        class_counts=None if kind == "regression" else class_counts,
        scores=torch.rand(count, generator=generator),
        are_messages=says_own,
    )


def known(teachers: Teachers) -> dict[str, Tensor]:
    """What is known of the teachers, without what is not."""
    fields = {field: getattr(teachers, field) for field in KNOWN}
    return {field: values for field, values in fields.items() if values is not None}


def test_the_walk_finds_the_ensembles() -> None:
    assert {
        "ClassPriorWeighted",
        "ClippedLogits",
        "DensityRatioPosterior",
        "GeometricMedianProbabilities",
        "MeanLogits",
        "MeanProbabilities",
        "MedianProbabilities",
        "SampleWeighted",
        "TrimmedProbabilities",
        "ValidationWeighted",
    } <= ENSEMBLES.keys()


@every_case
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gives_finite_predictions(ensemble: Ensemble, kind: OutputKind, temperature: float) -> None:
    teachers = make_teachers(kind, ensemble=ensemble)
    target = ensemble(teachers, temperature)
    assert target.shape == make_teachers(kind).logits.shape[1:]
    assert bool(torch.isfinite(target).all())
    if kind != "regression":
        assert bool(((target >= 0) & (target <= 1)).all())
    if kind == "multiclass":
        torch.testing.assert_close(target.sum(dim=-1), torch.ones(SAMPLES))


@every_case
def test_stays_finite_when_teachers_are_sure(ensemble: Ensemble, kind: OutputKind) -> None:
    teachers = make_teachers(kind, ensemble=ensemble)
    target = ensemble(dataclasses.replace(teachers, logits=1e6 * teachers.logits), 1.0)
    assert bool(torch.isfinite(target).all())


@every_case_of_outputs
@pytest.mark.parametrize("count", [1, 2, 3, COUNT])
def test_equal_teachers_are_one_teacher(ensemble: Ensemble, kind: OutputKind, count: int) -> None:
    teachers = make_teachers(kind, count, ensemble=ensemble)
    alike = dataclasses.replace(teachers, logits=teachers.logits[:1].repeat(count, 1, 1))
    torch.testing.assert_close(ensemble(alike, 3.0), soften(teachers.logits[0], 3.0, kind))


@every_case
def test_does_not_depend_on_the_order_of_teachers(ensemble: Ensemble, kind: OutputKind) -> None:
    teachers, order = make_teachers(kind, ensemble=ensemble), [3, 0, 4, 1, 2]
    shuffled = Teachers(
        teachers.logits[order],
        kind,
        tuple(teachers.names[index] for index in order),
        **{field: values[order] for field, values in known(teachers).items()},
        are_messages=teachers.are_messages,
    )
    torch.testing.assert_close(ensemble(shuffled, 2.0), ensemble(teachers, 2.0))


@every_case_of_outputs
def test_treats_each_sample_alone(ensemble: Ensemble, kind: OutputKind) -> None:
    teachers = make_teachers(kind, ensemble=ensemble)
    some = dataclasses.replace(teachers, logits=teachers.logits[:, [7, 2]])
    torch.testing.assert_close(ensemble(some, 2.0), ensemble(teachers, 2.0)[[7, 2]])


@every_ensemble
@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_lies_between_the_teachers_where_no_class_competes(ensemble: Ensemble, kind: OutputKind) -> None:
    if kind not in ensemble.kinds or ensemble.has_own_message:
        return
    teachers = make_teachers(kind, ensemble=ensemble)
    said, target = soften(teachers.logits, 2.0, kind), ensemble(teachers, 2.0)
    assert bool((target >= said.amin(dim=0) - 1e-5).all())
    assert bool((target <= said.amax(dim=0) + 1e-5).all())


@every_case
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_computes_in_float32_at_least(
    ensemble: Ensemble, kind: OutputKind, dtype: torch.dtype, expected: torch.dtype
) -> None:
    teachers = make_teachers(kind, dtype=dtype, ensemble=ensemble)
    target = ensemble(teachers, 2.0)
    assert target.dtype == expected
    exact = ensemble(dataclasses.replace(teachers, logits=teachers.logits.to(expected)), 2.0)
    assert torch.equal(target, exact)


@every_case
def test_autocast_takes_no_digits(ensemble: Ensemble, kind: OutputKind) -> None:
    teachers = make_teachers(kind, ensemble=ensemble)
    with torch.autocast("cpu", torch.bfloat16):
        target = ensemble(teachers, 2.0)
    assert torch.equal(target, ensemble(teachers, 2.0))


@every_case
def test_is_a_target_that_a_student_can_learn_from(ensemble: Ensemble, kind: OutputKind) -> None:
    teachers = make_teachers(kind, ensemble=ensemble)
    student = torch.zeros_like(make_teachers(kind).logits[0], requires_grad=True)
    loss = distillation_loss(student, ensemble(teachers, 2.0), 2.0, kind)
    (gradient,) = torch.autograd.grad(loss, student)
    assert bool(torch.isfinite(gradient).all())
    assert gradient.abs().sum().item() > 0


@every_case
def test_leaves_the_teachers_as_they_are_and_repeats_itself(ensemble: Ensemble, kind: OutputKind) -> None:
    teachers, untouched = make_teachers(kind, ensemble=ensemble), make_teachers(kind, ensemble=ensemble)
    first = ensemble(teachers, 2.0).clone()
    assert torch.equal(ensemble(teachers, 2.0), first)
    assert torch.equal(teachers.logits, untouched.logits)
    assert all(torch.equal(values, known(untouched)[field]) for field, values in known(teachers).items())


@every_case
def test_shares_no_memory_with_the_teachers(ensemble: Ensemble, kind: OutputKind) -> None:
    teachers = make_teachers(kind, count=1, ensemble=ensemble)
    target = ensemble(teachers, 2.0)
    assert target.untyped_storage().data_ptr() != teachers.logits.untyped_storage().data_ptr()


@every_case
def test_needs_what_it_says_and_nothing_else(ensemble: Ensemble, kind: OutputKind) -> None:
    teachers = make_teachers(kind, ensemble=ensemble)
    needed = {field: known(teachers)[field] for field in ensemble.needs}
    bare = Teachers(teachers.logits, kind, teachers.names, **needed, are_messages=teachers.are_messages)
    assert torch.equal(ensemble(bare, 2.0), ensemble(teachers, 2.0))
    for field in ensemble.needs:
        with pytest.raises(ValueError, match=f"{type(ensemble).__name__} needs the teachers' {field}, got None"):
            ensemble(dataclasses.replace(bare, **{field: None}), 2.0)  # type: ignore[arg-type]


@every_ensemble
def test_refuses_the_kinds_it_does_not_name(ensemble: Ensemble) -> None:
    for kind in KINDS:
        if kind not in ensemble.kinds:
            with pytest.raises(ValueError, match=f"got {kind}: use"):
                ensemble(make_teachers(kind, ensemble=ensemble), 2.0)


@every_case
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_refuses_a_temperature_that_is_none(ensemble: Ensemble, kind: OutputKind, temperature: float) -> None:
    with pytest.raises(ValueError, match="finite temperature above 0"):
        ensemble(make_teachers(kind, ensemble=ensemble), temperature)


@every_ensemble
def test_survives_pickling(ensemble: Ensemble) -> None:
    copied: Ensemble = pickle.loads(pickle.dumps(ensemble))
    teachers = make_teachers("multiclass", ensemble=ensemble)
    assert torch.equal(copied(teachers, 2.0), ensemble(teachers, 2.0))
