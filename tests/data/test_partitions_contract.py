"""One battery for every partition there is: a new file in ``partitions`` is tested before anyone writes a test."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
import random

import numpy as np
import pytest
import torch

from hetfed_lightning.data import partitions
from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.partitions import Natural, Partition

# Values for settings that have no default; a new rule with another such setting adds it here.
SETTINGS = {"alpha": 0.3}
K = C = 5


def every_rule() -> list[type[Partition]]:
    for module in pkgutil.iter_modules(partitions.__path__):
        importlib.import_module(f"{partitions.__name__}.{module.name}")
    found: list[type[Partition]] = []
    queue: list[type[Partition]] = [Partition]  # type: ignore[type-abstract]
    while queue:
        subclasses = queue.pop().__subclasses__()
        queue.extend(subclasses)
        inside = [rule for rule in subclasses if rule.__module__.startswith(partitions.__name__)]
        found.extend(rule for rule in inside if not inspect.isabstract(rule))
    return sorted(found, key=lambda rule: rule.__name__)


def global_states() -> list[bytes]:
    others = np.random.get_state(), random.getstate()  # noqa: NPY002 - the global state is what must not matter
    return [torch.get_rng_state().numpy().tobytes(), *map(pickle.dumps, others)]


def build(rule: type[Partition]) -> Partition:
    required = [
        name
        for name, parameter in inspect.signature(rule).parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    return rule(**{name: SETTINGS[name] for name in required})


@pytest.fixture(params=every_rule(), ids=lambda rule: rule.__name__)
def rule(request: pytest.FixtureRequest) -> Partition:
    return build(request.param)


@pytest.fixture
def labels() -> torch.Tensor:
    # Unequal classes, in no order.
    return torch.from_numpy(np.random.default_rng(0).permutation(np.repeat(np.arange(C), [90, 70, 60, 50, 30])))


def test_the_walk_finds_the_rules_that_are_exported() -> None:
    exported = {getattr(partitions, name) for name in partitions.__all__}
    assert {item for item in exported if inspect.isclass(item)} - {Partition} <= set(every_rule())


def test_parts_are_disjoint_sorted_and_cover(rule: Partition, labels: torch.Tensor) -> None:
    parts = rule(labels, K, 0)
    assert len(parts) == K
    assert all(len(part) > 0 and part.dtype == torch.int64 for part in parts)
    assert all(torch.equal(part, part.sort().values) for part in parts)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(labels)))


def test_the_seed_alone_decides(rule: Partition, labels: torch.Tensor) -> None:
    first = rule(labels, K, 3)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global state is what must not matter
    random.seed(99)
    states = global_states()
    second = rule(labels, K, 3)
    assert global_states() == states
    assert all(map(torch.equal, first, second))


def test_another_seed_is_another_partition(rule: Partition, labels: torch.Tensor) -> None:
    same = all(
        len(a) == len(b) and torch.equal(a, b) for a, b in zip(rule(labels, K, 0), rule(labels, K, 1), strict=True)
    )
    assert same == isinstance(rule, Natural)  # the one rule that leaves nothing to chance


def test_a_rule_survives_pickling(rule: Partition, labels: torch.Tensor) -> None:
    assert all(map(torch.equal, pickle.loads(pickle.dumps(rule))(labels, K, 0), rule(labels, K, 0)))


def test_labels_are_left_alone_and_may_be_of_any_integer_dtype(rule: Partition, labels: torch.Tensor) -> None:
    before = labels.clone()
    expected = rule(labels, K, 0)
    assert torch.equal(labels, before)
    for dtype in (torch.uint8, torch.int32):
        assert all(map(torch.equal, rule(labels.to(dtype), K, 0), expected))


def test_one_participant_gets_everything(rule: Partition) -> None:
    labels = torch.zeros(30, dtype=torch.int64) if isinstance(rule, Natural) else torch.arange(30) % 2
    assert torch.equal(rule(labels, 1, 0)[0], torch.arange(30))


@pytest.mark.parametrize(
    ("participants", "seed", "words"),
    [
        (0, 0, "num_participants to be a whole number of at least 1, got 0"),
        (2.5, 0, "num_participants to be a whole number of at least 1, got 2.5"),
        (301, 0, "each of 301 participants a sample: there are 300"),
        (5, -1, "seed to be a whole number of at least 0, got -1"),
    ],
)
def test_bad_calls_are_refused(rule: Partition, labels: torch.Tensor, participants: int, seed: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        rule(labels, participants, seed)


def test_no_labels_are_refused(rule: Partition) -> None:
    with pytest.raises(DataError, match="at least one sample"):
        rule(torch.zeros(0, dtype=torch.int64), 1, 0)


def test_float_labels_are_refused_or_play_no_part(rule: Partition, labels: torch.Tensor) -> None:
    try:
        parts = rule(labels + 0.5, K, 0)
    except DataError as error:
        assert "integer dtype, got torch.float32" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert all(map(torch.equal, parts, rule(labels, K, 0)))


def test_a_rule_is_built_from_a_configuration(rule: Partition) -> None:
    jsonargparse = pytest.importorskip("jsonargparse", minversion="4.49")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--partition", type=Partition)
    name = type(rule).__name__
    settings = {key: value for key, value in SETTINGS.items() if key in vars(rule)}
    parsed = parser.parse_object({"partition": {"class_path": f"{partitions.__name__}.{name}", "init_args": settings}})
    assert repr(parser.instantiate(parsed)["partition"]) == repr(rule)
