"""One battery for every head in the package, found by walking it, and for the plain linear one."""

import copy
import importlib
import inspect
import itertools
import pickle
import pkgutil

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from hetfed_lightning import heads


def _every_head() -> list[type[nn.Module]]:
    found = []
    for info in pkgutil.walk_packages(heads.__path__, f"{heads.__name__}."):
        module = importlib.import_module(info.name)
        found += [
            member
            for name, member in inspect.getmembers(module, inspect.isclass)
            if issubclass(member, nn.Module) and member.__module__ == info.name and not name.startswith("_")
        ]
    return found


EVERY_HEAD = _every_head()
every_head = pytest.mark.parametrize("kind", EVERY_HEAD, ids=lambda kind: kind.__name__)


def _seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return kind().eval()


def _features(size: int, width: int = 64, seed: int = 5) -> Tensor:
    return torch.randn(size, width, generator=torch.Generator().manual_seed(seed))


def test_the_walk_finds_the_heads_that_the_package_exports() -> None:
    assert set(heads.__all__) <= {kind.__name__ for kind in EVERY_HEAD}


@every_head
@pytest.mark.parametrize("size", [1, 2, 5])
def test_outputs_have_the_promised_shape_and_are_finite(kind: type[nn.Module], size: int) -> None:
    outputs = _seeded(kind).train()(_features(size))
    assert outputs.shape == (size, 10)
    assert outputs.isfinite().all()


@every_head
def test_the_widths_are_the_arguments_of_a_linear_layer(kind: type[nn.Module]) -> None:
    head = kind(5, 3)
    assert head.in_features == 5
    assert head.out_features == 3
    assert head(_features(2, 5)).shape == (2, 3)


@every_head
def test_a_seed_decides_everything(kind: type[nn.Module]) -> None:
    first, second = _seeded(kind), _seeded(kind)
    x = _features(3)
    assert torch.equal(first(x), second(x))
    assert torch.equal(first(x), first(x))


@every_head
def test_every_parameter_learns(kind: type[nn.Module]) -> None:
    head = _seeded(kind).train()
    head(_features(8)).square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@every_head
def test_a_state_moves_into_a_fresh_instance(kind: type[nn.Module]) -> None:
    source = _seeded(kind)
    torch.manual_seed(4)
    target = kind().eval()
    x = _features(3)
    assert not torch.equal(source(x), target(x))
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(x), target(x))


@every_head
def test_copies_and_pickles_give_the_same_outputs_and_share_nothing(kind: type[nn.Module]) -> None:
    head = _seeded(kind)
    x = _features(3)
    before = head(x)
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin(x), before)
        for parameter in twin.parameters():
            parameter.data.zero_()
        assert torch.equal(head(x), before)


@every_head
def test_double_precision_stays_double(kind: type[nn.Module]) -> None:
    single = _seeded(kind)
    outputs = copy.deepcopy(single).double()(_features(3).double())
    assert outputs.dtype == torch.float64
    torch.testing.assert_close(outputs.float(), single(_features(3)), rtol=1e-4, atol=1e-5)


@every_head
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 65), r"\(batch, 64\), got \(2, 65\): set in_features=65"),
        ((64,), r"got \(64,\): add the missing dimension"),
    ],
)
def test_a_wrong_shape_is_refused_with_what_to_change(
    kind: type[nn.Module], shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} expected .*{words}"):
        _seeded(kind)(torch.zeros(shape))


@every_head
def test_sizes_below_one_are_refused_by_name(kind: type[nn.Module]) -> None:
    for name in ("in_features", "out_features"):
        with pytest.raises(ValueError, match=rf"{kind.__name__} expected {name} of at least 1, got 0"):
            kind(**{name: 0})


@every_head
def test_configuration_files_can_build_it(kind: type[nn.Module]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "head")
    arguments = {
        name: list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
    }
    path = f"{kind.__module__}.{kind.__name__}"
    config = parser.parse_object({"head": {"class_path": path, "init_args": arguments}})
    assert type(parser.instantiate(config).head) is kind


def test_no_two_heads_have_a_key_in_common() -> None:
    # Where heads are shared, tensors are averaged by key and shape: a common key would mix different heads.
    keys = {kind: set(kind().state_dict()) for kind in EVERY_HEAD} | {nn.Linear: {"weight", "bias"}}
    for one, other in itertools.combinations(keys, 2):
        assert not keys[one] & keys[other], f"{one.__name__} and {other.__name__}"


@every_head
def test_a_fleet_can_run_it_under_vmap(kind: type[nn.Module]) -> None:
    torch.manual_seed(6)
    members = [kind().train() for _ in range(3)]
    parameters, buffers = stack_module_state(members)
    x = torch.stack([_features(2, seed=seed) for seed in range(3)])

    def outputs(state: dict[str, Tensor], buffer: dict[str, Tensor], batch: Tensor) -> Tensor:
        result: Tensor = functional_call(members[0], (state, buffer), (batch,))
        return result

    alone = torch.stack([member(batch) for member, batch in zip(members, x, strict=True)])
    torch.testing.assert_close(torch.vmap(outputs)(parameters, buffers, x), alone, rtol=1e-4, atol=1e-5)
