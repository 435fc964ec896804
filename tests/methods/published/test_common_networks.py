"""FedKD and FedMRL: a small common network whose features are used beside the participants' own."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import FederatedDataModule, Federation, LinearSchedule, Participant
from hetfed_lightning.data import Examples
from hetfed_lightning.methods.low_rank import factors, longest_rank, rank_at
from hetfed_lightning.methods.published.fed_kd import FedKD
from hetfed_lightning.methods.published.fed_mrl import FedMRL
from tests.federations import equal, examples, fit, sgd, state_of, tiny_data, tiny_participant
from tests.methods.published.by_hand import COUNTS, MOMENTUM, RATE, State, close, forward, mean, own_data, run

WIDE, SMALL, CLASSES = 5, 3, 3


def small(seed: int = 7) -> tuple[nn.Module, nn.Module]:
    """A common backbone and head."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, SMALL), nn.ReLU()), nn.Linear(SMALL, CLASSES)


def fixed(name: str, rows: int, columns: int) -> Tensor:
    """Initial weights of a module that stays with a participant."""
    generator = torch.Generator().manual_seed(len(name))
    return 0.3 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)


class KnownKD(FedKD):
    def modules(self, participant: Participant) -> Mapping[str, nn.Module]:
        made = super().modules(participant)
        made["transform"].weight.data = fixed("map", WIDE, SMALL).float()
        return made


class KnownMRL(FedMRL):
    def modules(self, participant: Participant) -> Mapping[str, nn.Module]:
        made = super().modules(participant)
        made["projection"].weight.data = fixed("fuse", WIDE, SMALL + WIDE).float()
        made["projection"].bias.data.fill_(0.1)  # type: ignore[operator]
        return made


def beginning() -> State:
    """Common weights as the run begins."""
    backbone, head = small()
    state = {f"backbone.{key}": one for key, one in backbone.state_dict().items()}
    state |= {f"head.{key}": one for key, one in head.state_dict().items()}
    return {key: one.double() for key, one in state.items()}


def by_hand(cohorts: list[list[str]], loss: Any, extra: State, travel: Any) -> tuple[dict[str, State], State]:
    """Weights of every participant, own ones and what stays, and the common ones after the last round."""
    own: dict[str, State] = {}
    for place, name in enumerate(COUNTS):
        made = tiny_participant(seed=place).double().state_dict()
        own[name] = {f"own {key}": one for key, one in made.items()} | {
            f"stay {key}": one for key, one in extra.items()
        }
    velocity: dict[str, State] = {name: {} for name in COUNTS}
    data, common = own_data(), travel(None, beginning(), 0)
    for round_index, active in enumerate(cohorts):
        sent = []
        for name in active:
            weights = own[name] | {f"common {key}": one for key, one in common.items()}
            for _ in range(2):
                leaves = {key: one.clone().requires_grad_() for key, one in weights.items()}
                parts = {kind: {key.split(" ", 1)[1]: one for key, one in leaves.items() if key.startswith(kind)}
                         for kind in ("own", "stay", "common")}  # fmt: skip
                gradients = torch.autograd.grad(loss(parts, *data[name]), list(leaves.values()))
                for key, gradient in zip(leaves, gradients, strict=True):
                    speed = velocity[name]
                    speed[key] = MOMENTUM * speed[key] + gradient if key in speed else gradient
                    weights[key] = weights[key] - RATE * speed[key]
            own[name] = {key: one for key, one in weights.items() if not key.startswith("common")}
            after = {key.removeprefix("common "): one for key, one in weights.items() if key.startswith("common")}
            sent.append({key: travel(key, one - common[key], round_index) for key, one in after.items()})
        update = mean(sent, [COUNTS[name] for name in active])
        common = {key: common[key] + travel(key, one, round_index) for key, one in update.items()}
    return own, common


def whole(key: str | None, value: Any, round_index: int) -> Any:
    """What FedMRL's weights become on their way: nothing else."""
    del key, round_index
    return value


def low(energy: Any, most: int | None) -> Any:
    """What a matrix becomes on its way, by projection on the first eigenvectors of its rows' products."""

    def one(key: str, value: Tensor, share: float) -> Tensor:
        if value.dim() < 2:
            return value
        rows, columns = value.shape
        limit = rows * columns // (rows + columns)
        limit = limit if most is None else min(limit, most)
        squares, vectors = torch.linalg.eigh(value @ value.T)
        squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
        kept = 0
        while kept < len(squares) and squares[:kept].sum() < share * squares.sum() * (1 - 1e-14):
            kept += 1
        first = vectors[:, : min(kept, limit)]
        found: Tensor = first @ (first.T @ value)
        return found

    def travel(key: str | None, value: Any, round_index: int) -> Any:
        if key is None:
            return {name: one(name, each, 1.0) for name, each in value.items()}
        return one(key, value, energy(round_index) if callable(energy) else energy)

    return travel


def kd(parts: dict[str, State], inputs: Tensor, target: Tensor) -> Tensor:
    features, outputs = forward(parts["own"], inputs)
    little, common = forward(parts["common"], inputs)
    mapped = little @ parts["stay"]["map"].T
    p, q = outputs.softmax(1), common.softmax(1)
    mine, theirs = F.cross_entropy(outputs, target), F.cross_entropy(common, target)
    divisor = (mine + theirs).detach()
    kl = (q.detach() * (q.detach() / p).log()).sum(1) + (p.detach() * (p.detach() / q).log()).sum(1)
    apart = ((features - mapped.detach()) ** 2).mean(1) + ((mapped - features.detach()) ** 2).mean(1)
    return mine + theirs + (kl + apart).mean() / divisor


def mrl(weight: float) -> Any:
    def loss(parts: dict[str, State], inputs: Tensor, target: Tensor) -> Tensor:
        features, _ = forward(parts["own"], inputs)
        little, _ = forward(parts["common"], inputs)
        fused = torch.cat([little, features], 1) @ parts["stay"]["fuse"].T + parts["stay"]["bias"]
        mine = fused @ parts["own"]["head.weight"].T + parts["own"]["head.bias"]
        common = fused[:, :SMALL] @ parts["common"]["head.weight"].T + parts["common"]["head.bias"]
        found: Tensor = F.cross_entropy(mine, target) + weight * F.cross_entropy(common, target)
        return found

    return loss


@pytest.mark.parametrize(("energy", "most"), [(0.9, None), (LinearSchedule(0.5, 0.99, 3), 1), (1.0, None)])
def test_fedkd_equals_a_loop_by_hand(energy: Any, most: int | None) -> None:
    method = KnownKD(*small(), energy=energy, most_rank=most)
    found, cohorts = run(method, 4, participation=0.6, participant={"local_epochs": 2})
    own, common = by_hand(cohorts, kd, {"map": fixed("map", WIDE, SMALL).float().double()}, low(energy, most))
    check(found, own, common, "transform", {"map": "weight"})


def test_fedmrl_equals_a_loop_by_hand() -> None:
    method = KnownMRL(*small(), common_weight=0.7)
    found, cohorts = run(method, 4, participation=0.6, participant={"local_epochs": 2})
    bias = torch.full((WIDE,), 0.1).double()
    stays = {"fuse": fixed("fuse", WIDE, SMALL + WIDE).float().double(), "bias": bias}
    own, common = by_hand(cohorts, mrl(0.7), stays, whole)
    check(found, own, common, "projection", {"fuse": "weight", "bias": "bias"})


def check(found: Any, own: dict[str, State], common: State, module: str, names: dict[str, str]) -> None:
    for name, weights in own.items():
        close(found[name], {key[4:]: one for key, one in weights.items() if key.startswith("own ")})
        (title,) = found[name].titles_of_modules()
        modules = found[name].modules_of(title)
        close(modules["common"], common)
        close(modules[module], {names[key[5:]]: one for key, one in weights.items() if key.startswith("stay ")})


@pytest.mark.parametrize("make", [FedKD, FedMRL])
def test_fleets_take_the_same_steps_with_short_batches(make: Any) -> None:
    def trained(engine: str) -> Any:
        made, _ = run(make(*small()), 3, data=tiny_data(batch_size=5, evaluated=False), engine=engine)
        return made

    one, other = trained("sequential"), trained("auto")
    for name in COUNTS:
        close(other[name], one[name].state_dict())


def test_architectures_differ_and_both_models_are_measured() -> None:
    def unlike() -> Federation:
        return Federation({name: tiny_participant(hidden=4 + place, seed=place) for place, name in enumerate("abc")})

    for make in (FedKD, FedMRL):
        made = unlike()
        measured = fit(made, tiny_data(), 2, make(*small())).callback_metrics
        assert "val_accuracy.common/a" in measured
        models = [state_of(made[name].modules_of(make.__name__)["common"]) for name in "abc"]
        assert equal(models[0], models[1])
        with pytest.raises(ValueError, match=rf"no two participants.*{make.__name__}\(backbone=..., head=...\)"):
            fit(unlike(), tiny_data(), 1, make())


def test_fedmrl_predicts_with_the_head_on_fused_features() -> None:
    made = Federation({name: tiny_participant(seed=place) for place, name in enumerate("abc")})
    data = tiny_data()
    found = fit(made, data, 1, FedMRL(*small())).callback_metrics
    one, own = made["a"].eval(), data.data.val["a"]
    assert isinstance(own, Examples)
    assert own.targets is not None
    modules = one.modules_of("FedMRL")
    little = modules["common"].get_submodule("backbone")(own.inputs)
    fused = modules["projection"](torch.cat([little, one.backbone(own.inputs)], 1))
    torch.testing.assert_close(found["val_loss/a"], F.cross_entropy(one.head(fused), own.targets))
    common = modules["common"].get_submodule("head")(fused[:, :SMALL])
    torch.testing.assert_close(found["val_loss.common/a"], F.cross_entropy(common, own.targets))


# -------------------------------------------------------------------------------------------- low rank


def test_the_error_is_the_tail_of_the_spectrum() -> None:
    matrix = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(matrix)
    for energy in (0.3, 0.7, 0.95, 1.0):
        left, right = factors(matrix, energy, 5)
        error, rank = float((matrix - left @ right).square().sum()), rank_at(values, energy)
        assert abs(error - float(values[rank:].square().sum())) < 1e-12
        assert error <= (1 - energy) * float(values.square().sum()) + 1e-12
        assert float(values[: rank - 1].square().sum()) < energy * float(values.square().sum()), "a rank too many"


def test_the_full_rank_is_tried_too_and_nothing_has_rank_zero() -> None:
    left, right = factors(torch.eye(4), 1.0, 4)  # Equal singular values: no lower rank holds all of them.
    torch.testing.assert_close(left @ right, torch.eye(4))
    assert rank_at(torch.zeros(3), 0.95) == 0
    assert rank_at(torch.tensor([2.0, 0.0]), 1.0) == 1
    assert [factors(torch.zeros(3, 2), 0.9, 1)[0].any().item(), longest_rank((5,)), longest_rank((8, 1, 3, 3))] == [
        False,
        0,
        4,
    ]


def test_what_cannot_be_is_refused() -> None:
    binary = Federation({name: tiny_participant(classes=1, task="binary") for name in "ab"})
    data = FederatedDataModule({name: examples(12, classes=2, seed=seed) for seed, name in enumerate("ab")})
    with pytest.raises(ValueError, match=r"'a': FedKD compares probabilities of classes, and its task is binary"):
        fit(binary, data, 1, FedKD())
    narrow = Federation({name: tiny_participant(hidden=2) for name in "ab"})
    with pytest.raises(ValueError, match=r"'a': FedMRL's common head reads the first 3 of its 2 features"):
        fit(narrow, tiny_data("ab"), 1, FedMRL(*small()))
    headless = Federation({name: Participant(nn.Linear(4, 3), nn.Identity(), optimizer=sgd()) for name in "ab"})
    with pytest.raises(ValueError, match=r"'a': its head is a Identity, and a linear layer is needed"):
        fit(headless, tiny_data("ab"), 1, FedMRL(*small()))
    for make, message in (
        (lambda: FedKD(energy=0.0), "energy: expected"),
        (lambda: FedKD(most_rank=0), "most_rank: expected"),
        (lambda: FedKD(small()[0]), "a backbone and a head"),
        (lambda: FedMRL(common_weight=-1.0), "common_weight: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
