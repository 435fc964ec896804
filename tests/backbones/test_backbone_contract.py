"""One battery for every backbone, found by walking the package: a new file is tested before it has tests."""

import copy
import importlib
import inspect
import itertools
import pickle
import pkgutil
import warnings

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor
from torch.func import functional_call, stack_module_state

from hetfed_lightning import backbones, showcases
from hetfed_lightning.backbones import Backbone, RecurrentBackbone


def _every_backbone() -> list[type[Backbone]]:
    found = []
    for info in itertools.chain.from_iterable(
        pkgutil.walk_packages(package.__path__, f"{package.__name__}.") for package in (backbones, showcases)
    ):
        module = importlib.import_module(info.name)
        found += [
            member
            for _, member in inspect.getmembers(module, inspect.isclass)
            if issubclass(member, Backbone) and member.__module__ == info.name and not inspect.isabstract(member)
        ]
    return found


EVERY_BACKBONE = _every_backbone()
every_backbone = pytest.mark.parametrize("kind", EVERY_BACKBONE, ids=lambda kind: kind.__name__)


def _seeded(kind: type[Backbone]) -> Backbone:
    torch.manual_seed(3)
    return kind().eval()


def _batch(backbone: Backbone, size: int, seed: int = 5) -> Tensor:
    return torch.randn(size, *backbone.example_input_shape, generator=torch.Generator().manual_seed(seed))


def test_the_walk_finds_the_backbones_that_the_package_exports() -> None:
    exported = {name for name in (*backbones.__all__, *showcases.__all__) if name.endswith("Backbone")} - {"Backbone"}
    assert exported <= {kind.__name__ for kind in EVERY_BACKBONE}


@every_backbone
@pytest.mark.parametrize("size", [1, 2, 5])
def test_features_have_the_promised_shape_and_are_finite(kind: type[Backbone], size: int) -> None:
    backbone = _seeded(kind).train()
    features = backbone(_batch(backbone, size))
    assert features.shape == (size, backbone.out_features)
    assert features.isfinite().all()
    assert features.std() > 0


@every_backbone
def test_the_width_of_the_features_is_the_argument(kind: type[Backbone]) -> None:
    backbone = kind(out_features=7)
    assert backbone.out_features == 7
    assert backbone(_batch(backbone, 2)).shape == (2, 7)


@every_backbone
def test_a_seed_decides_everything(kind: type[Backbone]) -> None:
    first, second = _seeded(kind), _seeded(kind)
    x = _batch(first, 3)
    assert torch.equal(first(x), second(x))
    assert torch.equal(first(x), first(x))


@every_backbone
def test_samples_are_read_one_by_one_in_evaluation(kind: type[Backbone]) -> None:
    backbone = _seeded(kind)
    x = _batch(backbone, 4)
    alone = torch.cat([backbone(sample) for sample in x.chunk(4)])
    torch.testing.assert_close(backbone(x), alone, rtol=1e-4, atol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(backbone(x[order]), backbone(x)[order], rtol=1e-4, atol=1e-5)


@every_backbone
def test_every_parameter_learns(kind: type[Backbone]) -> None:
    backbone = _seeded(kind).train()
    backbone(_batch(backbone, 8)).square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@every_backbone
def test_a_state_moves_into_a_fresh_instance(kind: type[Backbone]) -> None:
    source = _seeded(kind)
    torch.manual_seed(4)
    target = kind().eval()
    x = _batch(source, 3)
    assert not torch.equal(source(x), target(x))
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(x), target(x))


@every_backbone
def test_copies_and_pickles_give_the_same_features_and_share_nothing(kind: type[Backbone]) -> None:
    backbone = _seeded(kind)
    x = _batch(backbone, 3)
    before = backbone(x)
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(twin(x), before)
        for parameter in twin.parameters():
            parameter.data.zero_()
        assert torch.equal(backbone(x), before)


@every_backbone
def test_double_precision_stays_double(kind: type[Backbone]) -> None:
    single = _seeded(kind)
    double = copy.deepcopy(single).double()
    x = _batch(single, 3)
    features = double(x.double())
    assert features.dtype == torch.float64
    torch.testing.assert_close(features.float(), single(x), rtol=1e-3, atol=1e-4)


@every_backbone
def test_bfloat16_autocast_is_finite(kind: type[Backbone]) -> None:
    backbone = _seeded(kind).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(_batch(backbone, 4))
        assert features.isfinite().all()
        features.float().sum().backward()


@every_backbone
def test_a_wrong_shape_is_refused_with_both_shapes_and_the_argument_to_change(kind: type[Backbone]) -> None:
    backbone = _seeded(kind)
    wrong = torch.zeros(2, *(size + 1 for size in backbone.example_input_shape))
    words = rf"{kind.__name__} expected .*batch.*, got \(2, .*: set \w+=\d+"
    with pytest.raises(ValueError, match=words) as refusal:
        backbone(wrong)
    assert str(tuple(wrong.shape)) in str(refusal.value)
    advised = str(refusal.value).rsplit("set ", 1)[1].split("=")[0]
    assert advised in inspect.signature(kind).parameters


@every_backbone
def test_a_missing_batch_dimension_is_refused(kind: type[Backbone]) -> None:
    backbone = _seeded(kind)
    with pytest.raises(ValueError, match=r"got .*: (add the missing dimension|set \w+=\d+)"):
        backbone(torch.zeros(backbone.example_input_shape[-1]))


@every_backbone
def test_sizes_below_one_are_refused_by_name(kind: type[Backbone]) -> None:
    sizes = [name for name, value in inspect.signature(kind).parameters.items() if type(value.default) is int]
    assert sizes
    for name in sizes:
        with pytest.raises(ValueError, match=rf"{kind.__name__} expected {name} of at least \d, got 0"):
            kind(**{name: 0})


@every_backbone
def test_configuration_files_can_build_it(kind: type[Backbone]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Backbone, "backbone")
    path = f"{kind.__module__}.{kind.__name__}"
    arguments = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
    }
    config = parser.parse_object({"backbone": {"class_path": path, "init_args": arguments}})
    built = parser.instantiate(config).backbone
    assert type(built) is kind
    shapes = {key: value.shape for key, value in built.state_dict().items()}
    assert shapes == {key: value.shape for key, value in kind().state_dict().items()}


def test_no_two_architectures_have_a_key_in_common() -> None:
    # Shared tensors are averaged by key and shape: a common key would mix what has nothing in common.
    keys = {kind: set(kind().state_dict()) for kind in EVERY_BACKBONE}
    for one, other in itertools.combinations(EVERY_BACKBONE, 2):
        assert not keys[one] & keys[other], f"{one.__name__} and {other.__name__}"


@pytest.mark.parametrize(
    "kind", [kind for kind in EVERY_BACKBONE if kind is not RecurrentBackbone], ids=lambda kind: kind.__name__
)
def test_a_fleet_can_run_it_under_vmap(kind: type[Backbone]) -> None:
    torch.manual_seed(6)
    members = [kind().train() for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    x = torch.stack([_batch(members[0], 2, seed) for seed in range(3)])

    def features(state: dict[str, Tensor], buffer: dict[str, Tensor], batch: Tensor) -> Tensor:
        result: Tensor = functional_call(members[0], (state, buffer), (batch,))
        return result

    with warnings.catch_warnings():
        # attention has no batching rule yet and runs member by member
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        together = torch.vmap(features)(parameters, buffers, x)
    alone = torch.stack([member(batch) for member, batch in zip(members, x, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
