"""Modules of a method's own: trained beside the participant's network, saved, resumed, shared with nobody."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from hetfed_lightning import BackboneAveraging, Federation, Participant
from hetfed_lightning.privacy import DPSGD
from tests.federations import equal, examples, fit, sgd, state_of, tiny_data, tiny_federation, tiny_participant
from tests.methods.own_methods import Mutual


def common(federation: Federation, name: str) -> dict[str, Tensor]:
    return {key: one.clone() for key, one in federation[name].modules_of("Mutual")["common"].state_dict().items()}


def test_they_are_trained_and_averaged_as_a_loop_by_hand() -> None:
    # The first round by hand, from the same start.
    federation, start = tiny_federation("ab"), {}

    class Noting(Mutual):
        title = "Mutual"

        def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            start.update({name: common(federation, name) for name in "ab"})

    models = {name: tiny_participant(seed=place) for place, name in enumerate("ab")}
    fit(federation, tiny_data("ab", batch_size=100, evaluated=False), 1, Noting())
    ends = []
    for place, name in enumerate("ab"):
        model, beside, data = models[name], nn.Linear(4, 3), examples(12 + 4 * place, seed=place)
        beside.load_state_dict(start[name])
        assert data.targets is not None
        mine, theirs = model(data.inputs), beside(data.inputs)
        parted = F.kl_div(mine.log_softmax(1), theirs.detach().softmax(1), reduction="batchmean")
        parted = parted + F.kl_div(theirs.log_softmax(1), mine.detach().softmax(1), reduction="batchmean")
        (F.cross_entropy(mine, data.targets) + F.cross_entropy(theirs, data.targets) + parted).backward()
        for parameter in (*model.parameters(), *beside.parameters()):
            assert parameter.grad is not None
            parameter.data.sub_(0.1 * parameter.grad)
        ends.append(beside.state_dict())
        own = {key: one for key, one in state_of(federation[name]).items() if not key.startswith("method_modules")}
        torch.testing.assert_close(own, state_of(model))
    for name in "ab":
        expected = {key: (ends[0][key] + ends[1][key]) / 2 for key in ends[0]}
        torch.testing.assert_close(common(federation, name), expected)


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
def test_no_pattern_shares_them(shared: str, caplog: pytest.LogCaptureFixture) -> None:
    method = Mutual()
    method.exchanges = ()
    federation = tiny_federation("abc", participant={"shared": (shared,)}, engine="batched")
    with caplog.at_level("INFO", "hetfed_lightning"):
        fit(federation, tiny_data(), 1, method, BackboneAveraging())
    assert not any(key.startswith("method_modules") for key in federation["a"].shared_keys())
    assert not equal(common(federation, "a"), common(federation, "b"))
    assert "one after another, since Mutual has modules of its own in it" in caplog.text


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
