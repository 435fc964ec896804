"""Density ratios against the public set, and the posterior of pooled data that they make."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetfed_lightning import DPSGD, EnsembleDistillation, FederatedDataModule, Federation, Participant
from hetfed_lightning.distillation import DensityRatioPosterior, MeanProbabilities, Teachers
from hetfed_lightning.distillation.density_ratios import FLOOR, log_density_ratios
from tests.federations import equal, examples, fit, sgd, state_of, tiny_data, tiny_federation

DOUBLE = torch.float64
MEANS = torch.tensor([[-2.0, 0.0, 5.0], [1.0, 3.0, 0.0]], dtype=DOUBLE)
"""Of each participant's classes: Gaussians of variance 1 on a line."""
COUNTS = torch.tensor([[50.0, 20.0, 0.0], [0.0, 70.0, 10.0]], dtype=DOUBLE)


def logs(places: Tensor) -> Tensor:
    """Log densities ``log p_k(x|c)``, shape ``(K, P, C)``."""
    return -((places[None, :, None] - MEANS[:, None]) ** 2) / 2 - math.log(2 * math.pi) / 2


def pooled(places: Tensor, *, uniform: bool) -> Tensor:
    """Bayes' rule over the mixture of both, shape ``(P, C)``."""
    joint = (COUNTS[:, None] * logs(places).exp()).sum(dim=0)
    joint = joint / COUNTS.sum(dim=0) if uniform else joint
    return joint / joint.sum(dim=-1, keepdim=True)


def teachers(messages: Tensor, counts: Tensor, kind: str = "multiclass", samples: Tensor | None = None) -> Teachers:
    names = tuple(f"hospital_{place}" for place in range(len(messages)))
    samples = counts.sum(dim=1) if samples is None else samples
    return Teachers(messages, kind, names, samples=samples, class_counts=counts, are_messages=True)


@pytest.mark.parametrize("prior", ["pooled", "uniform"])
def test_exact_densities_give_the_pooled_posterior(prior: str) -> None:
    places = torch.linspace(-4, 6, 41, dtype=DOUBLE)
    ratios = logs(places) + COUNTS.log()[:, None] - math.log(41) - math.log(1 / 10)
    said = teachers(ratios.nan_to_num(neginf=-1e3), COUNTS)
    found = DensityRatioPosterior(prior, bound=math.inf, smoothing=0)(said, 1.0)  # type: ignore[arg-type]
    torch.testing.assert_close(found, pooled(places, uniform=prior == "uniform"), atol=1e-12, rtol=0)


def test_a_given_prior_is_that_of_the_target() -> None:
    places = torch.linspace(-4, 6, 41, dtype=DOUBLE)
    said = teachers((logs(places) + COUNTS.log()[:, None]).nan_to_num(neginf=-1e3), COUNTS)
    settings = {"bound": math.inf, "smoothing": 0.0}
    uniform, given = DensityRatioPosterior(**settings), DensityRatioPosterior([1, 2, 5], **settings)  # type: ignore[arg-type]
    expected = uniform(said, 1.0) * torch.tensor([1.0, 2.0, 5.0], dtype=DOUBLE)
    torch.testing.assert_close(given(said, 1.0), expected / expected.sum(dim=-1, keepdim=True))
    with pytest.raises(ValueError, match="prior: expected 3 numbers, one per class, got 2"):
        DensityRatioPosterior([1, 2])(said, 1.0)


def test_a_temperature_takes_the_root_of_the_posterior() -> None:
    said = teachers(torch.randn(2, 30, 3, dtype=DOUBLE), COUNTS)
    ensemble = DensityRatioPosterior()
    root = ensemble(said, 1.0).sqrt()
    torch.testing.assert_close(ensemble(said, 2.0), root / root.sum(dim=-1, keepdim=True))


def test_fitted_ratios_converge_to_the_pooled_posterior() -> None:
    errors = []
    for size in (100, 3000):
        generator = torch.Generator().manual_seed(0)
        public = 3 * torch.randn(size, generator=generator, dtype=DOUBLE)
        own_counts = (COUNTS * size / 100).long()
        messages = []
        for means, counts in zip(MEANS, own_counts, strict=True):
            classes = torch.repeat_interleave(torch.arange(3), counts)
            own = means[classes] + torch.randn(len(classes), generator=generator, dtype=DOUBLE)
            messages.append(log_density_ratios(features(own), classes, features(public), 3))
        ensemble = DensityRatioPosterior("pooled", bound=math.inf, smoothing=0)
        found = ensemble(teachers(torch.stack(messages), own_counts.to(DOUBLE)), 1.0)
        inside = public.abs() < 3  # Where somebody has examples.
        errors.append(float((found - pooled(public, uniform=False))[inside].abs().mean()))
    assert errors[1] < 0.015
    assert errors[1] < errors[0] / 3


def features(places: Tensor) -> Tensor:
    """Of which the exact log ratios are linear functions, shape ``(N, 2)``."""
    return torch.stack([places, places**2], dim=1)


def test_ratios_have_a_mean_of_one_and_no_class_that_nobody_has() -> None:
    generator = torch.Generator().manual_seed(1)
    public = torch.randn(500, 4, generator=generator, dtype=DOUBLE)
    own, classes = public[:120] + 0.1, torch.arange(120) % 2 * 2
    found = log_density_ratios(own, classes, public, 4)
    assert bool((found[:, [1, 3]] == FLOOR).all())
    assert bool((found <= math.log(60) + 1e-9).all())
    sums = found.exp().sum(dim=0) / 60
    assert 0.7 < sums[0] < 1.5
    assert 0.7 < sums[2] < 1.5


def test_the_regression_is_at_its_minimum() -> None:
    # Two folds of one value each: by symmetry the log-odds at zero are those of the counts.
    public = torch.zeros(40, 1, dtype=DOUBLE)
    found = log_density_ratios(torch.zeros(30, 1, dtype=DOUBLE), torch.zeros(30).long(), public, 1)
    torch.testing.assert_close(found, torch.full((40, 1), math.log(30 / 40), dtype=DOUBLE), atol=1e-4, rtol=0)


def test_binary_is_two_classes_and_labels_are_two_each() -> None:
    generator = torch.Generator().manual_seed(2)
    own, public = (torch.randn(count, 3, generator=generator, dtype=DOUBLE) for count in (50, 60))
    labels = torch.rand(50, 2, generator=generator).lt(0.4).long()
    ensemble = DensityRatioPosterior()
    outputs = torch.zeros(60, 2)
    said = ensemble.message(outputs, public, Told(own, labels, "multilabel"))
    first = ensemble.message(outputs[:, :1], public, Told(own, labels[:, 0], "binary"))
    both = ensemble.message(outputs, public, Told(own, labels[:, 0], "multiclass"))
    torch.testing.assert_close(first, said[:, :2])
    torch.testing.assert_close(first, both)
    counts = torch.bincount(labels[:, 0], minlength=2).to(DOUBLE)[None]
    two = ensemble(teachers(both[None], counts), 2.0)[:, 1:]
    torch.testing.assert_close(ensemble(teachers(first[None], counts, "binary"), 2.0), two)
    positives, samples = labels.sum(dim=0).to(DOUBLE)[None], torch.tensor([50.0])
    found = ensemble(teachers(said[None], positives, "multilabel", samples), 2.0)
    torch.testing.assert_close(found[:, :1], two)


class Told:
    """A teacher's own examples."""

    def __init__(self, features: Tensor, targets: Tensor, kind: str) -> None:
        self.features = self.features_like_public = features
        self.targets, self.kind, self.outputs = targets, kind, torch.empty(0)


# In a fit


@pytest.mark.parametrize("mode", ["phase", "mixed"])
def test_participants_learn_by_it(mode: Any) -> None:
    federation, before = tiny_federation(), tiny_federation()
    fit(federation, tiny_data(), 3, EnsembleDistillation(DensityRatioPosterior(), mode=mode))
    fit(before, tiny_data(), 3, EnsembleDistillation(MeanProbabilities(), mode=mode))
    assert not any(equal(state_of(federation[name]), state_of(before[name])) for name in "abc")
    assert "federation/teacher_agreement" not in federation.trainer.callback_metrics  # Ratios are no logits.
    assert "federation/public_fit" in federation.trainer.callback_metrics


def test_binary_outputs_are_distilled_by_two_ratios() -> None:
    data = {name: examples(12, classes=2, seed=seed) for seed, name in enumerate("abc")}
    federation = tiny_federation(participant={"classes": 1, "task": "binary"})
    shapes = []

    class Seen(EnsembleDistillation):
        def combine(self, sent: Any, *args: Any) -> Any:
            found: Any = super().combine(sent, *args)
            shapes.append((sent["a"]["outputs"].shape, found.state["targets"].shape))
            return found

    method = Seen(DensityRatioPosterior("pooled"))
    fit(federation, FederatedDataModule(data, public=examples(10, seed=300), batch_size=4), 2, method)
    assert shapes == [((10, 2), (10, 1))] * 2


def test_refused_beside_dp_sgd_before_training() -> None:
    private = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-5)
    federation = tiny_federation(participant={"privacy": private})
    with pytest.raises(ValueError, match=r"participant 'a': privacy=DPSGD.*not possible"):
        fit(federation, tiny_data(), 1, EnsembleDistillation(DensityRatioPosterior(), mode="phase"))


class Twice(Participant):
    """A network of its own: twice what the head says."""

    def forward(self, inputs: Any) -> Tensor:
        return 2 * super().forward(inputs)


class Saying(Twice):
    """Says what its features are."""

    def features_of(self, inputs: Any) -> Tensor:
        return super().features_of(inputs)


def test_a_network_of_ones_own_says_its_features_or_is_refused() -> None:
    def together(kind: type[Participant]) -> Federation:
        return Federation({name: kind(nn.Linear(4, 5), nn.Linear(5, 3), optimizer=sgd()) for name in "ab"})

    with pytest.raises(ValueError, match=r"Twice.forward is a network of its own: write Twice.features_of\(inputs\)"):
        fit(together(Twice), tiny_data("ab"), 1, EnsembleDistillation(DensityRatioPosterior()))
    seen: list[Tensor] = []

    class Watched(DensityRatioPosterior):
        def message(self, outputs: Tensor, features: Tensor, data: Any) -> Tensor:
            seen.extend((outputs, features))
            return super().message(outputs, features, data)

    federation = together(Saying)
    fit(federation, tiny_data("ab"), 1, EnsembleDistillation(Watched(), optimizer=sgd(0.0)))
    outputs, features = seen[-2:]
    torch.testing.assert_close(outputs, 2 * federation["b"].head(features))


# Liars


def school(seed: int, count: int = 5, examples: int = 300) -> tuple[Teachers, Tensor]:
    """Messages of teachers who know two classes each, right on nine examples of ten, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(10, (examples,), generator=generator)
    counts = torch.zeros(count, 10)
    messages = torch.full((count, examples, 10), FLOOR)
    for place in range(count):
        for label in (2 * place % 10, (2 * place + 1) % 10):
            counts[place, label] = 40
            log_odds = torch.where(truth == label, 2.0, -4.0) + torch.randn(examples, generator=generator)
            shares = torch.softmax(log_odds, dim=0)
            messages[place, :, label] = (40 * shares).log()
    return teachers(messages, counts), truth


def right(said: Teachers, truth: Tensor, **settings: float) -> float:
    return float((DensityRatioPosterior(**settings)(said, 2.0).argmax(dim=-1) == truth).float().mean())  # type: ignore[arg-type]


@pytest.mark.parametrize(("claimed", "least"), [(40.0, 0.92), (1e6, 0.84)])
def test_a_liar_for_one_class_everywhere_owns_no_target(claimed: float, least: float) -> None:
    for seed in range(3):
        said, truth = school(seed)
        assert right(said, truth) > 0.99
        messages, counts = said.logits.clone(), said.class_counts.clone()  # type: ignore[union-attr]
        messages[0, :, 7] = 30.0
        counts[0, 7] = claimed
        lied = replace(said, logits=messages, class_counts=counts, samples=counts.sum(dim=1))
        assert right(lied, truth) > least
        assert right(lied, truth, bound=math.inf) < 0.2


def test_a_regression_on_few_examples_is_extrapolated() -> None:
    # As many features as examples: log-odds grow without end towards public images that are far from all of them.
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randn(300, 1, generator=generator).abs().exp()
    public, own = torch.randn(300, 64, generator=generator) * lengths, torch.randn(40, 64, generator=generator) * 0.3
    found = log_density_ratios(own + 0.5, torch.full((40,), 7), public, 10)
    assert float(found.max()) <= math.log(40) + 1e-6
    assert float(found.exp().sum()) > 10 * 40  # True ratios sum to 40.


@pytest.mark.parametrize("spread", [2.0, 6.0, 30.0])
def test_an_extrapolated_class_owns_few_targets(spread: float) -> None:
    said, truth = school(7)
    log_odds = spread * torch.randn(300, generator=torch.Generator().manual_seed(7))
    messages = said.logits.clone()
    messages[3, :, 7] = log_odds.clamp(max=math.log(40))  # As a teacher's own bound leaves them.
    found = replace(said, logits=messages)
    others = truth != 7
    owned = {}
    for bound in (2.0, math.inf):
        targets = DensityRatioPosterior(bound=bound)(found, 2.0).argmax(dim=-1)
        owned[bound] = float((targets == 7)[others].float().mean())
    # Its ratios sum to bound times its examples, and honest ones to theirs over a tenth of the public set each.
    assert owned[2.0] < 2.0 / 10
    assert owned[math.inf] > 0.4


def test_bounds_leave_most_honest_ratios_and_all_choices_as_they_are() -> None:
    said, _ = school(4)
    free = DensityRatioPosterior(bound=math.inf)(said, 2.0)
    found = DensityRatioPosterior(bound=2.0)(said, 2.0)
    kept = (found - free).abs().amax(dim=-1) < 1e-6
    assert float(kept.float().mean()) > 0.8
    assert torch.equal(found.argmax(dim=-1), free.argmax(dim=-1))


def test_a_public_set_that_nobody_knows_is_told(caplog: pytest.LogCaptureFixture) -> None:
    said, _ = school(5)
    ensemble = DensityRatioPosterior()
    torch.testing.assert_close(ensemble.public_fit(said), torch.ones(5, dtype=DOUBLE))
    strange = replace(said, logits=said.logits - math.log(8))
    torch.testing.assert_close(ensemble.public_fit(strange), torch.full((5,), 1 / 8, dtype=DOUBLE))
    assert ensemble.figures(said) == {"public_fit": pytest.approx(1.0)}
    assert not caplog.records
    for _ in range(2):
        assert ensemble.figures(strange) == {"public_fit": pytest.approx(1 / 8)}
    assert [one.getMessage().split(":")[0] for one in caplog.records] == [
        f"The public set has little of what hospital_{place} knows" for place in range(5)
    ]


def test_what_nobody_has_seen_has_the_prior_as_target() -> None:
    said, _ = school(6)
    unseen = said.logits.clone()
    unseen[:, 0] = -20.0
    found = DensityRatioPosterior()(replace(said, logits=unseen), 1.0)
    torch.testing.assert_close(found[0], torch.full((10,), 0.1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior": "flat"}, "prior: expected 'uniform', 'pooled' or one number per class, got 'flat'"),
        ({"prior": [0.5, 0.0]}, "prior: expected finite numbers above 0"),
        ({"bound": 0.5}, "bound: expected at least 1, got 0.5"),
        ({"bound": math.nan}, "bound: expected at least 1, got nan"),
        ({"smoothing": -1.0}, "smoothing: expected a finite number of at least 0"),
        ({"penalty": math.inf}, "penalty: expected a finite number of at least 0"),
        ({"max_share": 0.0}, "max_share"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DensityRatioPosterior(**settings)  # type: ignore[arg-type]


def test_needs_two_public_examples() -> None:
    with pytest.raises(
        ValueError, match=r"DensityRatioPosterior needs at least 2 public examples, got 1: give a larger"
    ):
        fit(tiny_federation(), tiny_data(public=examples(1)), 1, EnsembleDistillation(DensityRatioPosterior()))
    with pytest.raises(ValueError, match="at least 2 examples, got 1"):
        log_density_ratios(torch.zeros(3, 2), torch.zeros(3).long(), torch.zeros(1, 2), 2)
