"""The simulated disease: its likelihoods against enumeration and SciPy, its optimum against what the posterior gets."""

from itertools import product
from typing import Any

import pytest
import torch
from scipy.stats import multivariate_normal

from hetfed_lightning.data import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.showcases import Hospital, ImageAndGenesDataModule, SimulatedDisease

SMALL: dict[str, Any] = {"states": 2, "genes": 5, "pathways": 2, "image_size": 6, "lesion_size": 4, "lookalikes": 0.3}


def test_image_likelihoods_are_those_of_every_place_and_phase() -> None:
    disease = SimulatedDisease.make(0, **(SMALL | {"contrast": 2.0}))
    images = disease.patients(3, 0).images
    wanted = torch.zeros(3, 2, dtype=torch.float64)
    places = list(product(range(3), range(3)))
    for state, look, phase, (row, column) in product(range(2), range(2), range(4), places):
        mean = torch.zeros(6, 6)
        mean[row : row + 4, column : column + 4] = disease.lesions[look, phase]
        density = (-(images[:, 0] - mean).double().square().sum(dim=(1, 2)) / 2).exp()
        wanted[:, state] += density * disease.looks[state, look]
    found = disease.image_log_likelihoods(images).double().softmax(dim=1)
    torch.testing.assert_close(found, wanted / wanted.sum(dim=1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_gene_likelihoods_are_those_of_scipy() -> None:
    disease = SimulatedDisease.make(1, **SMALL)
    panel = ("gene_03", "gene_00", "gene_04")
    chosen = torch.tensor([3, 0, 4])
    expression = disease.patients(4, 0).expression[:, chosen]
    scales = torch.diag(disease.scales[chosen])
    covariance = scales @ (disease.pathways[chosen] @ disease.pathways[chosen].T + torch.eye(3)) @ scales
    wanted = torch.stack(
        [
            torch.tensor(
                multivariate_normal(
                    disease.offsets[chosen] + disease.scales[chosen] * disease.means[state, chosen], covariance
                ).logpdf(expression.numpy())
            )
            for state in range(2)
        ],
        dim=1,
    )
    found = disease.gene_log_likelihoods(expression, panel).double()
    torch.testing.assert_close(found.softmax(dim=1), wanted.softmax(dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("image", "genes"), [(True, 0), (False, 24), (True, 12)])
def test_the_posterior_is_right_as_often_as_the_bayes_accuracy_says(image: bool, genes: int) -> None:
    disease = SimulatedDisease.make(0)
    panel = disease.genes[:genes]
    bayes = disease.bayes_accuracy(image=image, panel=panel, count=4000)
    patients = disease.patients(4000, "others")
    expression = patients.expression[:, disease.positions(panel)] if panel else None
    posterior = disease.posterior(patients.images if image else None, expression, panel)
    accuracy = float((posterior.argmax(dim=1) == patients.states).double().mean())
    # Both are means over 4000 patients: three standard deviations of their difference.
    spread = (bayes.value * (1 - bayes.value) / 4000 + bayes.standard_error**2) ** 0.5
    assert abs(accuracy - bayes.value) < 3 * spread
    assert bayes.standard_error < 0.006
    # Among patients of whom it is sure to .8 to .9, it is right as often (calibrated, since it is the posterior).
    sure = (posterior.amax(dim=1) > 0.8) & (posterior.amax(dim=1) < 0.9)
    assert float((posterior.argmax(dim=1) == patients.states)[sure].double().mean()) == pytest.approx(0.85, abs=0.06)


def test_image_and_genes_together_know_more_than_either() -> None:
    disease = SimulatedDisease.make(0)
    image = disease.bayes_accuracy(count=3000).value
    genes = disease.bayes_accuracy(image=False, panel=disease.genes[:24], count=3000).value
    assert disease.bayes_accuracy(panel=disease.genes[:24], count=3000).value > max(image, genes) + 0.02


def test_equal_streams_make_equal_patients_and_others_others() -> None:
    disease = SimulatedDisease.make(0)
    one, same, other = disease.patients(20, 0, "a"), disease.patients(20, 0, "a"), disease.patients(20, 0, "b")
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.expression, same.expression)
    assert not torch.equal(one.images, other.images)
    assert not torch.equal(disease.means, SimulatedDisease.make(1).means)


def test_the_mean_image_of_a_state_is_empty() -> None:
    # Phases 0, 90, 180 and 270 degrees cancel: no linear model of the pixels can tell states apart.
    assert float(SimulatedDisease.make(0).lesions.sum(dim=1).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"states": 1}, "states: expected at least 2, got 1"),
        ({"contrast": 0.0}, "contrast: .* got 0.0"),
        ({"lookalikes": 1.0}, "lookalikes: .* got 1.0"),
        ({"lesion_size": 29}, "lesion_size: expected at most image_size=28"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SimulatedDisease.make(0, **settings)


def test_what_is_no_panel_is_refused() -> None:
    disease = SimulatedDisease.make(0)
    with pytest.raises(DataError, match="no gene 'BRCA1'; there are gene_00 to gene_59"):
        disease.positions(["BRCA1"])
    with pytest.raises(DataError, match="expression of 2 genes, got shape"):
        disease.gene_log_likelihoods(torch.zeros(1, 3), disease.genes[:2])
    with pytest.raises(DataError, match="images, expression or both, got neither"):
        disease.posterior()


# The data module


def module(**settings: Any) -> ImageAndGenesDataModule:
    hospitals = {"both": Hospital(20, genes=12), "images": Hospital(10), "genes": Hospital(15, image=False, genes=30)}
    return ImageAndGenesDataModule(hospitals, val_patients=4, test_patients=6, public_size=5, **settings)


def test_every_hospital_has_its_own_inputs() -> None:
    data = module()
    shapes = {
        name: {key: tuple(value.shape) for key, value in one.inputs.items()}  # type: ignore[union-attr]
        for name, one in data.data.train.items()
        if isinstance(one, Examples)
    }
    assert shapes == {
        "both": {"image": (20, 1, 28, 28), "genes": (20, 12)},
        "images": {"image": (10, 1, 28, 28)},
        "genes": {"genes": (15, 30)},
    }
    assert len(data.panel("both")) == 12
    assert data.panel("images") == ()
    assert data.num_public == 5
    assert set(data.public_inputs(torch.arange(2))) == {"image"}


def test_the_seed_draws_patients_and_not_the_disease() -> None:
    one, same, other = module(), module(), module(seed=1)
    assert one.panel("both") == other.panel("both")
    assert one.panel("both") != module(disease_seed=1).panel("both")
    states = [data.train_targets("both").tolist() for data in (one, same, other)]
    assert states[0] == states[1] != states[2]


def test_hospitals_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="hospital 'a': expected image: true, or genes: 1 or more, got neither"):
        ImageAndGenesDataModule({"a": Hospital(5, image=False)})
    with pytest.raises(DataError, match="hospital 'a': expected 0 to 60 genes, got 61"):
        ImageAndGenesDataModule({"a": Hospital(5, genes=61)})
    with pytest.raises(DataError, match=r"none for participant 'boht'.*both"):
        module().load(("boht",))
