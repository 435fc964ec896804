"""Participants of several inputs: what is missing, what is blanked, who abstains, what is refused."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hetfed_lightning as hf
from hetfed_lightning.data import Examples, FederatedData
from hetfed_lightning.distillation import DensityRatioPosterior
from hetfed_lightning.methods.published.ditto import Ditto
from hetfed_lightning.methods.published.moon import MOON
from hetfed_lightning.methods.published.p_fed_me import PFedMe
from tests.federations import Listed, equal, fit, sgd, state_of, trainer


def linear(inputs: int, outputs: int, value: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def both(**settings: Any) -> hf.MultiInputParticipant:
    """Two features of one pixel, 10 and 10 times it; one of two genes, their sum; the head adds all up."""
    branches = {"genes": linear(2, 1, 1.0)}
    return hf.MultiInputParticipant(linear(1, 2, 10.0), linear(3, 1, 1.0), reads="image", branches=branches, **settings)


IMAGE, GENES = torch.tensor([[2.0], [1.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]])


def test_features_of_a_missing_input_are_zeros() -> None:
    one = both()
    # 2 * 10 * 2 + (3 + 4); 2 * 10 * 1 + (0 + 1)
    assert one({"image": IMAGE, "genes": GENES}).tolist() == [[47.0], [21.0]]
    assert one({"image": IMAGE}).tolist() == [[40.0], [20.0]]
    assert one({"genes": GENES, "age": IMAGE}).tolist() == [[7.0], [1.0]]
    assert one.missing_inputs({"genes": GENES}) == ["image"]
    assert not one.reads_any_of({"age": IMAGE})
    assert not one.reads_any_of(IMAGE)


def test_a_sum_adds_what_is_there() -> None:
    one = hf.MultiInputParticipant(
        linear(1, 2, 10.0), linear(2, 1, 1.0), reads="image", branches={"genes": linear(2, 2, 1.0)}, fusion="sum"
    )
    # 2 * (10 * 2 + 7); 2 * (10 * 1 + 1)
    assert one({"image": IMAGE, "genes": GENES}).tolist() == [[54.0], [22.0]]
    assert one({"genes": GENES}).tolist() == [[14.0], [2.0]]


def test_a_branch_is_blanked_by_example_and_in_training_alone() -> None:
    torch.manual_seed(0)
    one = both(branch_dropout=0.25)
    inputs = {"image": torch.ones(4000, 1), "genes": torch.ones(4000, 2)}
    outputs = one(inputs)[:, 0]
    assert set(outputs.tolist()) == {20.0, 22.0}
    # Binomial, 4000 draws: standard deviation .0068.
    assert float((outputs == 20).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert set(one.eval()(inputs)[:, 0].tolist()) == {22.0}


def test_a_branch_of_unknown_width_is_asked_for_it_only_where_it_is_missing() -> None:
    one = hf.MultiInputParticipant(linear(1, 1, 1.0), reads="image", branches={"genes": nn.Identity()})
    assert one({"image": IMAGE, "genes": GENES}).shape == (2, 3)
    with pytest.raises(ValueError, match=r"'genes' is missing, and Identity does not say .* out_features"):
        one({"image": IMAGE})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"branches": {"image": nn.Linear(2, 1)}}, "'image' is what the backbone reads"),
        ({"branches": {"genes": nn.Linear(2, 2)}}, r"takes 3 features, but .*image \(2\), genes \(2\) gives 4"),
        ({"branches": {"genes": nn.Linear(2, 1)}, "fusion": "sum"}, r"one width, got image \(2\), genes \(1\)"),
        ({"fusion": "mean"}, "'concatenate' or 'sum', got 'mean'"),
        ({"branch_dropout": 1.0}, r"\[0, 1\), got 1.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hf.MultiInputParticipant(nn.Linear(1, 2), nn.Linear(3, 1), reads="image", **settings)


def test_inputs_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"its input 'genes' of shape \(2, 3\) does not fit Linear"):
        both()({"image": IMAGE, "genes": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="expected inputs by name, image, genes or some of them, got age"):
        both()({"age": IMAGE})
    with pytest.raises(ValueError, match=r"expected inputs by name, .* got Tensor"):
        both()(IMAGE)


# In a federation


def network(*, image: bool = True, genes: int = 0, seed: int = 0, **settings: Any) -> hf.MultiInputParticipant:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        branches = {"genes": nn.Linear(genes, 2)} if image and genes else {}
        backbone = nn.Linear(4, 5) if image else nn.Linear(genes, 5)
        head = nn.Linear(5 + 2 * len(branches), 3)
    settings.setdefault("optimizer", sgd())
    reads = "image" if image else "genes"
    return hf.MultiInputParticipant(backbone, head, reads=reads, branches=branches, **settings)


def patients(count: int, *, image: bool = True, genes: int = 0, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    inputs = {"image": torch.randn(count, 4, generator=generator)} if image else {}
    if genes:
        inputs["genes"] = torch.randn(count, genes, generator=generator)
    return Examples(inputs, torch.randint(3, (count,), generator=generator))


def data(*, public: bool = True, **changed: Any) -> hf.FederatedDataModule:
    train: dict[str, Any] = {
        "clinic": patients(12, genes=3, seed=1),
        "radiology": patients(12, seed=2),
        "laboratory": patients(12, image=False, genes=2, seed=3),
    }
    everyone = patients(10, seed=4)
    return hf.FederatedDataModule(
        train | changed, dict(train), dict(train), batch_size=4,
        public=Examples(everyone.inputs) if public else None, global_test=everyone,
    )  # fmt: skip


def hospitals(**settings: Any) -> hf.Federation:
    return hf.Federation(
        {
            "clinic": network(genes=3, seed=1, **settings),
            "radiology": network(seed=2, **settings),
            "laboratory": network(image=False, genes=2, seed=3, **settings),
        }
    )


@pytest.mark.parametrize("mode", ["phase", "mixed"])
def test_who_reads_nothing_of_the_public_set_neither_teaches_nor_learns(
    mode: Any, caplog: pytest.LogCaptureFixture
) -> None:
    alone, together = hospitals(), hospitals()
    fit(alone, data(), 3)
    distillation = hf.EnsembleDistillation(mode=mode)
    with caplog.at_level(logging.INFO, logger="hetfed_lightning"):
        fit(together, data(), 3, distillation)
    assert equal(state_of(alone["laboratory"]), state_of(together["laboratory"]))
    assert not equal(state_of(alone["clinic"]), state_of(together["clinic"]))
    assert distillation.agreement is not None
    assert distillation.agreement[0] == ("clinic", "radiology")
    said = [record.getMessage() for record in caplog.records if "of the public set" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("participant 'laboratory' reads nothing of the public set")
    assert "'image'" in said[0]


def test_public_images_without_genes_teach_the_backbone_and_leave_the_branch() -> None:
    federation = hospitals(optimizer=sgd(0.0))
    before = state_of(federation["clinic"])
    fit(federation, data(), 1, hf.EnsembleDistillation(mode="phase", optimizer=sgd(0.1)))
    after = state_of(federation["clinic"])
    for key, tensor in before.items():
        assert torch.equal(tensor, after[key]) == key.startswith("branches.")


def test_density_ratios_compare_what_the_public_set_has() -> None:
    # Genes, which public images lack, would tell every patient from the public set.
    seen: dict[int, Any] = {}

    class Watched(DensityRatioPosterior):
        def message(self, outputs: Tensor, features: Tensor, data: Any) -> Tensor:
            seen[features.shape[1]] = (features, data.features, data.features_like_public)
            return super().message(outputs, features, data)

    federation = hospitals(optimizer=sgd(0.0))
    fit(federation, data(), 1, hf.EnsembleDistillation(Watched(), mode="phase", optimizer=sgd(0.0)))
    assert seen.keys() == {5, 7}
    public, own, alike = seen[7]  # Of the clinic: five of its image, two of its genes.
    inputs: Any = patients(12, genes=3, seed=1).inputs
    torch.testing.assert_close(own, federation["clinic"].eval().features_of(inputs))
    torch.testing.assert_close(alike, federation["clinic"].features_of({"image": inputs["image"]}))
    assert not alike[:, 5:].any()
    assert not public[:, 5:].any()
    public, own, alike = seen[5]
    assert alike is own


def test_who_reads_nothing_of_everyones_set_is_not_measured_on_it() -> None:
    federation, module = hospitals(), data()
    made = trainer(1)
    made.fit(federation, datamodule=module)
    made.test(federation, datamodule=module, verbose=False)
    found = {key for key in made.callback_metrics if "global_accuracy" in key}
    assert found >= {"test_global_accuracy/clinic", "test_global_accuracy/radiology"}
    assert "test_global_accuracy/laboratory" not in found
    assert "test_accuracy/laboratory" in made.callback_metrics


def test_a_public_set_that_nobody_reads_is_refused() -> None:
    module = data()
    module.replace_data(FederatedData(module.data.train, public=Examples({"age": torch.zeros(4, 1)})))
    with pytest.raises(ValueError, match="no participant reads anything of the public set, which has 'age'"):
        fit(hospitals(), module, 1, hf.EnsembleDistillation())


def test_training_data_without_an_input_is_refused_before_the_first_step() -> None:
    mistyped = patients(12, seed=1)
    mistyped.inputs["gene"] = torch.zeros(12, 3)  # type: ignore[index]  # inputs are by name here
    with pytest.raises(ValueError, match=r"'clinic' reads 'genes', which its training .* \(it has image, gene\)"):
        fit(hospitals(), data(clinic=mistyped), 1)


def test_training_without_an_input_is_refused_in_a_trainer_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"reads 'genes', which its training data does not have"):
        both().training_step(({"image": IMAGE}, torch.zeros(2)), 0)


def test_methods_shape_the_loss_of_each_example() -> None:
    class Twice(hf.Method):
        exchanges = ()

        def example_loss(self, losses: Tensor, *_: Any) -> Tensor:
            return 2 * losses

    def trained(weight: float, *methods: hf.Method) -> dict[str, Tensor]:
        federation = hospitals(branch_dropout=0.5, optimizer=sgd(0.01 * weight))
        fit(federation, data(), 2, *methods)
        return state_of(federation)

    found, expected = trained(1, Twice()), trained(2)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


@pytest.mark.parametrize("method", [Ditto, MOON, PFedMe])
def test_methods_that_copy_a_backbone_and_a_head_are_refused_before_training(method: type[hf.Method]) -> None:
    with pytest.raises(ValueError, match=r"'clinic': .* a copy of a backbone and a head"):
        fit(hospitals(), data(), 1, method())


def test_in_memory_and_sample_by_sample_are_the_same() -> None:
    def trained(listed: bool) -> dict[str, Tensor]:
        federation, module = hospitals(branch_dropout=0.5), data()
        if listed:
            sets = {name: Listed(one) for name, one in module.data.train.items() if isinstance(one, Examples)}
            module.replace_data(FederatedData(sets))
        fit(federation, module, 2, hf.BackboneAveraging())
        return state_of(federation)

    assert equal(trained(listed=False), trained(listed=True))


def test_it_predicts_and_loads_from_a_checkpoint() -> None:
    federation, module = hospitals(), data()
    made = trainer(1)
    made.fit(federation, datamodule=module)
    whole, images = patients(5, genes=3, seed=9).inputs, patients(5, seed=9).inputs
    for inputs in (whole, images):
        assert federation["clinic"].predict(inputs).sum(dim=1).tolist() == pytest.approx([1.0] * 5)
    predictions = made.predict(federation, datamodule=module)
    assert predictions is not None
    assert len(predictions) == 3
