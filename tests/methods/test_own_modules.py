"""Modules of a method's own: trained beside the participant's network, saved, resumed, shared with nobody."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from hetfed_lightning import BackboneAveraging, Federation, Participant
from hetfed_lightning.methods import own_modules
from hetfed_lightning.privacy import DPSGD
from tests.federations import equal, examples, fit, sgd, state_of, tiny_data, tiny_federation, tiny_participant, trainer
from tests.methods.own_methods import Mutual


def common(federation: Federation, name: str) -> dict[str, Tensor]:
    return {key: one.clone() for key, one in federation[name].modules_of("Mutual")["common"].state_dict().items()}


def learnt_mutually(starts: dict[str, dict[str, Tensor]], rounds: int) -> dict[str, dict[str, Tensor]]:
    """States after full-batch mutual learning, whose common models are averaged after each round."""
    models = {name: tiny_participant(seed=place).double() for place, name in enumerate(starts)}
    commons = {name: nn.Linear(4, 3).double() for name in starts}
    for name, start in starts.items():
        commons[name].load_state_dict(start)
    for _ in range(rounds):
        for place, (name, model) in enumerate(models.items()):
            data, common_model = examples(12 + 4 * place, seed=place), commons[name]
            assert isinstance(data.inputs, Tensor)
            assert data.targets is not None
            inputs, rows = data.inputs.double(), torch.arange(len(data.targets))
            mine, theirs = model(inputs).log_softmax(1), common_model(inputs).log_softmax(1)
            towards = (theirs.detach().exp() * (theirs.detach() - mine)).sum(1)
            back = (mine.detach().exp() * (mine.detach() - theirs)).sum(1)
            loss = (towards + back - mine[rows, data.targets] - theirs[rows, data.targets]).mean()
            trained = [*model.parameters(), *common_model.parameters()]
            for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                parameter.data.sub_(0.1 * gradient)
        mean = {key: torch.stack([one.state_dict()[key] for one in commons.values()]).mean(0)
                for key in ("weight", "bias")}  # fmt: skip
        for one in commons.values():
            one.load_state_dict(mean)
    beside = {name: {f"method_modules.Mutual.common.{key}": one for key, one in commons[name].state_dict().items()}
              for name in starts}  # fmt: skip
    return {name: state_of(model) | beside[name] for name, model in models.items()}


class Noting(Mutual):
    """Keeps what the common models begin with."""

    title = "Mutual"

    def __init__(self, federation: Federation) -> None:
        self.federation, self.starts = federation, dict[str, dict[str, Tensor]]()

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.starts = {name: common(self.federation, name) for name in self.federation.participants}


@pytest.mark.parametrize(("engine", "tolerance"), [("sequential", 1e-12), ("batched", 1e-10), ("vmap", 1e-10)])
def test_mutual_learning_equals_a_loop_by_hand(engine: Any, tolerance: float) -> None:
    federation = tiny_federation("abc", engine=engine)
    method = Noting(federation)
    fit(federation, tiny_data(batch_size=100, evaluated=False), 3, method, precision="64-true")
    for name, state in learnt_mutually(method.starts, 3).items():
        torch.testing.assert_close(state_of(federation[name]), state, rtol=tolerance, atol=tolerance)


def test_they_begin_by_seed_participant_and_method() -> None:
    class Still(Mutual):
        title = "Mutual"

    def start(seed: int) -> dict[str, Any]:
        torch.manual_seed(int(torch.randint(99, ())))
        federation = tiny_federation("ab", seed=seed, participant={"optimizer": sgd(0.0)})
        still = Still()
        still.exchanges = ()
        fit(federation, tiny_data("ab"), 1, still)
        return {name: common(federation, name) for name in "ab"}

    one, again, other = start(0), start(0), start(1)
    assert equal(one["a"], again["a"])
    assert not equal(one["a"], one["b"])
    assert not equal(one["a"], other["a"])


@pytest.mark.parametrize("shared", ["*", "*.weight", "backbone"])
def test_no_pattern_shares_them(shared: str) -> None:
    method = Mutual()
    method.exchanges = ()
    federation = tiny_federation("abc", participant={"shared": (shared,)}, engine="batched")
    fit(federation, tiny_data(), 1, method, BackboneAveraging())
    assert not any(key.startswith("method_modules") for key in federation["a"].shared_keys())
    assert not equal(common(federation, "a"), common(federation, "b"))


@pytest.mark.parametrize("steps", [None, 5])
def test_a_resumed_run_equals_one_that_was_never_stopped(steps: int | None, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": tmp_path}

    def federation() -> Federation:
        adam = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.01)}
        return tiny_federation(participation=0.7, participant=adam)

    def saving(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / folder, "{epoch}-{step}", save_top_k=-1, every_n_train_steps=steps)

    whole = federation()
    fit(whole, tiny_data(), 4, Mutual(), saving("whole"), **settings)
    path = sorted(tmp_path.glob("whole/*.ckpt"))[1]
    resumed = federation()
    fit(resumed, tiny_data(), 4, Mutual(), saving(path.stem), ckpt_path=path, **settings)
    assert any("method_modules.Mutual.common.weight" in key for key in state_of(resumed))
    assert equal(state_of(resumed), state_of(whole))


@pytest.mark.filterwarnings("ignore:Be aware that when using")
def test_whoever_reads_a_checkpoint_without_the_method_has_the_network_alone(tmp_path: Path) -> None:
    federation, path = tiny_federation("ab"), tmp_path / "some.ckpt"
    run = fit(federation, tiny_data("ab"), 1, Mutual())
    run.save_checkpoint(path)
    trained = {key: one for key, one in state_of(federation["a"]).items() if not key.startswith("method_modules")}
    alone = Participant.load_from_checkpoint(
        path, "a", backbone=tiny_participant().backbone, head=tiny_participant().head
    )
    assert equal(state_of(alone), trained)
    plain = tiny_federation("ab")
    L.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False).test(
        plain, datamodule=tiny_data("ab"), ckpt_path=str(path), verbose=False
    )
    assert equal(state_of(plain["a"]), trained)


def test_another_fit_goes_on_with_them_and_one_without_the_method_drops_them() -> None:
    federation = tiny_federation("ab", participant={"optimizer": sgd(0.0)})
    fit(federation, tiny_data("ab"), 1, Mutual())
    before = common(federation, "a")
    fit(federation, tiny_data("ab"), 1, Mutual())
    torch.testing.assert_close(common(federation, "a"), before)
    fit(federation, tiny_data("ab"), 1)
    assert federation["a"].titles_of_modules() == []
    assert state_of(federation["a"]).keys() == state_of(tiny_participant()).keys()


def test_many_participants_are_tested_after_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    # Modules made anew for the test are dropped at once, and the next may lie where they lay.
    names = [f"p{place:02d}" for place in range(12)]
    federation, run = tiny_federation(names), trainer(1, Mutual())
    run.fit(federation, datamodule=tiny_data(names))
    made: list[int] = []
    real = own_modules._newest

    def noted(before: Any, found: Any) -> Any:
        made.extend(id(one) for module in found.values() for one in module.parameters())
        return real(before, found)

    monkeypatch.setattr(own_modules, "_newest", noted)
    run.test(federation, datamodule=tiny_data(names), verbose=False)
    assert len(made) == len(set(made)) == 2 * len(names)


def test_what_is_no_module_is_refused_by_name() -> None:
    class Wrong(Mutual):
        def modules(self, participant: Participant) -> Any:
            return [nn.Linear(2, 2)]

    with pytest.raises(TypeError, match=r"participant 'a': Wrong.modules: expected modules by name.*got list"):
        fit(tiny_federation("ab"), tiny_data("ab"), 1, Wrong())


def test_beside_dp_sgd_they_are_refused() -> None:
    federation = tiny_federation("ab", participant={"privacy": DPSGD(1.5, 0.3, 1e-3)})
    with pytest.raises(ValueError, match=r"method_modules.Mutual.common.weight is trained and lies in neither"):
        fit(federation, tiny_data("ab"), 1, Mutual())
