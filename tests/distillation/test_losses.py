import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from hetfed_lightning.distillation import (
    OutputKind,
    binary_soft_target_loss,
    distillation_loss,
    distillation_losses,
    kd_loss,
    regression_distillation_loss,
    soft_target_loss,
    soften,
)

SEEDS = st.integers(0, 10_000)
TEMPERATURES = st.floats(0.2, 50)
KINDS: list[OutputKind] = ["multiclass", "binary", "multilabel", "regression"]


def pair(seed: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    """A student's logits, which want a gradient, and a teacher's; five samples in float64."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, 5, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(loss, student)[0]


def test_kd_loss_by_hand() -> None:
    # Teacher softmax([log 3, 0]) = (3/4, 1/4), student (1/2, 1/2):
    # KL = 3/4 log(3/2) + 1/4 log(1/2); the same for both samples, so their mean is it too.
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    student, teacher = torch.zeros(2, 2), torch.tensor([[math.log(3.0), 0.0]] * 2)
    assert kd_loss(student, teacher, 1.0).item() == pytest.approx(kl, rel=1e-6)
    # Logits twice as large at twice the temperature: the same distributions, times 2^2.
    assert kd_loss(student, 2 * teacher, 2.0).item() == pytest.approx(4 * kl, rel=1e-6)


@given(SEEDS, TEMPERATURES)
def test_kd_loss_agrees_with_scipy(seed: int, temperature: float) -> None:
    student, teacher = pair(seed)
    p, q = (soften(z.detach(), temperature, "multiclass").numpy() for z in (teacher, student))
    expected = stats.entropy(p, q, axis=-1).mean() * temperature**2
    assert kd_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-8, abs=1e-10)


@given(SEEDS, TEMPERATURES)
def test_kd_gradient_has_its_closed_form(seed: int, temperature: float) -> None:
    student, teacher = pair(seed)
    with torch.no_grad():
        q, p = soften(student, temperature, "multiclass"), soften(teacher, temperature, "multiclass")
        expected = temperature * (q - p) / len(student)
    actual = gradient(kd_loss(student, teacher, temperature), student)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_the_gradient_keeps_its_size_when_softened() -> None:
    # For high temperatures it tends to ((z - mean z) - (v - mean v)) / (B C), which has no temperature in it.
    student, teacher = pair(seed=1)
    with torch.no_grad():
        difference = student - teacher
        limit = (difference - difference.mean(dim=1, keepdim=True)) / difference.numel()
    torch.testing.assert_close(gradient(kd_loss(student, teacher, 1e4), student), limit, rtol=1e-2, atol=1e-4)
    sizes = [gradient(kd_loss(student, teacher, t), student).norm().item() for t in (3.0, 5.0, 10.0, 20.0)]
    assert max(sizes) < 2 * min(sizes)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_gradient_does_not_shrink_with_the_classes(classes: int) -> None:
    # A sure student that is wrong: its softmax is off by +1 at class 0 and -1 at class 1, whatever C.
    student, teacher = torch.zeros(2, 1, classes)
    student[0, 0] = teacher[0, 1] = 200.0
    student.requires_grad_()
    assert gradient(kd_loss(student, teacher, 1.0), student).norm().item() == pytest.approx(math.sqrt(2))


@given(SEEDS, TEMPERATURES)
def test_soft_targets_are_not_softened_again(seed: int, temperature: float) -> None:
    student, teacher = pair(seed)
    loss = soft_target_loss(student, soften(teacher, temperature, "multiclass"), temperature)
    torch.testing.assert_close(loss, kd_loss(student, teacher, temperature))


def test_soft_targets_may_hold_zeros() -> None:
    # KL of a sure teacher is -log q = log 2.
    loss = soft_target_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), 1.0)
    assert loss.item() == pytest.approx(math.log(2))


def test_binary_loss_by_hand() -> None:
    # p = (3/4, 1/2), q = 1/2 for both labels: KL = 3/4 log(3/2) + 1/4 log(1/2) + 0; one sample; T^2 = 4.
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    loss = binary_soft_target_loss(torch.zeros(1, 2), torch.tensor([[0.75, 0.5]]), 2.0)
    assert loss.item() == pytest.approx(4 * kl, rel=1e-6)


@given(SEEDS, TEMPERATURES)
def test_one_binary_output_is_two_classes(seed: int, temperature: float) -> None:
    # sigmoid(z) is the softmax of (0, z).
    student, teacher = pair(seed, classes=1)
    two = [torch.cat([torch.zeros_like(z), z], dim=1) for z in (student, teacher)]
    binary = binary_soft_target_loss(student, soften(teacher, temperature, "binary"), temperature)
    torch.testing.assert_close(binary, kd_loss(two[0], two[1], temperature), rtol=1e-7, atol=1e-9)


@given(SEEDS, TEMPERATURES)
def test_binary_gradient_has_its_closed_form(seed: int, temperature: float) -> None:
    student, teacher = pair(seed)
    p = soften(teacher, temperature, "multilabel")
    with torch.no_grad():
        expected = temperature * (soften(student, temperature, "multilabel") - p) / len(student)
    actual = gradient(binary_soft_target_loss(student, p, temperature), student)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_binary_loss_stays_finite_at_the_ends() -> None:
    student = torch.tensor([[1e4, -1e4, 1e4]], requires_grad=True)
    loss = binary_soft_target_loss(student, torch.tensor([[1.0, 0.0, 0.0]]), 1.0)
    # Right, right and wrong by 1e4.
    assert loss.item() == pytest.approx(1e4)
    assert gradient(loss, student).tolist() == [[0.0, 0.0, 1.0]]


def test_regression_loss_by_hand() -> None:
    # (1 + 9 + 0 + 4) / 4
    student, teacher = torch.tensor([[1.0, 3.0], [0.0, 2.0]]), torch.zeros(2, 2)
    assert regression_distillation_loss(student, teacher).item() == 3.5


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, temperature=TEMPERATURES)
def test_a_student_like_its_teacher_has_nothing_to_learn(kind: OutputKind, seed: int, temperature: float) -> None:
    student, _ = pair(seed, classes=1 if kind == "binary" else 4)
    loss = distillation_loss(student, soften(student, temperature, kind), temperature, kind)
    assert loss.item() == pytest.approx(0.0, abs=1e-13 * max(1, temperature**2))
    assert gradient(loss, student).abs().max().item() < 1e-14 * max(1, temperature**2)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, temperature=TEMPERATURES)
def test_is_not_negative_and_does_not_depend_on_the_order(kind: OutputKind, seed: int, temperature: float) -> None:
    student, teacher = pair(seed, classes=1 if kind == "binary" else 4)
    targets = soften(teacher, temperature, kind)
    loss = distillation_loss(student, targets, temperature, kind)
    assert loss.item() >= -1e-13 * temperature**2
    turned = distillation_loss(student.flip(0), targets.flip(0), temperature, kind)
    torch.testing.assert_close(turned, loss)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised(kind: OutputKind, dtype: torch.dtype) -> None:
    student, teacher = (z.detach().to(dtype) for z in pair(0, classes=1 if kind == "binary" else 4))
    targets = soften(teacher, 2.0, kind).to(dtype)
    loss = distillation_loss(student, targets, 2.0, kind)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, distillation_loss(student.float(), targets.float(), 2.0, kind))


def test_kd_loss_in_half_precision_is_raised() -> None:
    student, teacher = (z.detach().bfloat16() for z in pair(0))
    assert torch.equal(kd_loss(student, teacher, 2.0), kd_loss(student.float(), teacher.float(), 2.0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_is_a_constant_however_it_was_made(kind: OutputKind) -> None:
    shape = (2, 1 if kind == "binary" else 4)
    student, taught = torch.zeros(shape, requires_grad=True), torch.full(shape, 0.25, requires_grad=True)
    with pytest.raises(RuntimeError, match="appears to not have been used"):
        gradient(distillation_loss(student, taught, 1.0, kind), taught)
    with torch.inference_mode():
        frozen = torch.full(shape, 0.25)
    assert bool(torch.isfinite(gradient(distillation_loss(student, frozen, 1.0, kind), student)).all())


@pytest.mark.promise("broadcast")
@pytest.mark.parametrize("loss", [kd_loss, soft_target_loss, binary_soft_target_loss])
@pytest.mark.parametrize("shape", [(4, 3), (1, 1), (4,), (4, 1, 1)])
def test_refuses_shapes_that_would_broadcast(
    loss: Callable[[Tensor, Tensor, float], Tensor], shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(4, 1\) and \(.*nothing is broadcast"):
        loss(torch.zeros(4, 1), torch.zeros(shape), 1.0)


def test_regression_refuses_shapes_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 1\) and \(4,\)"):
        regression_distillation_loss(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (0, 4)])
def test_refuses_what_is_no_batch(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(B, C\) with B >= 1, got .*flatten"):
        kd_loss(torch.zeros(shape), torch.zeros(shape), 1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, -2.0, math.inf, math.nan])
def test_refuses_a_temperature_that_is_none(kind: OutputKind, temperature: float) -> None:
    zeros = torch.zeros(2, 1 if kind == "binary" else 2)
    with pytest.raises(ValueError, match=f"temperature above 0, got {temperature}"):
        distillation_loss(zeros, zeros, temperature, kind)


def test_refuses_columns_that_do_not_fit_the_kind() -> None:
    with pytest.raises(ValueError, match=r"binary outputs of shape \(\.\.\., 1\), got \(4, 2\)"):
        distillation_loss(torch.zeros(4, 2), torch.zeros(4, 2), 1.0, "binary")
    with pytest.raises(ValueError, match="the softmax of one logit is always 1"):
        kd_loss(torch.zeros(4, 1), torch.zeros(4, 1), 1.0)


@pytest.mark.parametrize("kind", KINDS)
@given(SEEDS, TEMPERATURES)
def test_each_example_has_its_part_whoever_is_beside_it(kind: OutputKind, seed: int, temperature: float) -> None:
    student, teacher = (logits.detach() for logits in pair(seed, 1 if kind == "binary" else 4))
    target = soften(teacher, temperature, kind)
    losses = distillation_losses(student, target, temperature, kind)
    alone = [distillation_loss(student[i : i + 1], target[i : i + 1], temperature, kind) for i in range(len(student))]
    torch.testing.assert_close(losses, torch.stack(alone), rtol=1e-12, atol=1e-14)
    whole = distillation_loss(student, target, temperature, kind)
    torch.testing.assert_close(losses.mean(), whole, rtol=1e-12, atol=1e-14)
