"""What Lightning tells a participant of its length is its own: batches of a round, optimizer steps of the run."""

from copy import deepcopy
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hetfed_lightning import BackboneAveraging, EnsembleDistillation, Federation, Participant, Transfer
from tests.federations import examples, fit, sgd, tiny_data, tiny_federation

ROUNDS = 3
BATCHES = {"a": 3, "b": 4, "c": 5}  # Of 12, 16 and 20 examples, four in a batch.


class Planning(Participant):
    """Plans one cycle of its learning rate over the steps that it is told of, of which OneCycleLR takes no more."""

    foreseen: Any = None

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.trainable_parameters(), lr=0.1)
        self.foreseen = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=max(1, self.foreseen))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def planning(seed: int = 0, **settings: Any) -> Planning:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Planning(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3), **settings)


def check(federation: Federation, *callbacks: L.Callback, rounds: int = ROUNDS, **trainer: Any) -> None:
    """Fit, and find that everyone took as many steps as it was told before."""
    fit(federation, tiny_data(), rounds, *callbacks, **trainer)
    for name, one in federation.everyone().items():
        assert federation.local[name].progress == one.foreseen, name


work = st.fixed_dictionaries(
    {
        "accumulate_grad_batches": st.integers(1, 4),
        "local_epochs": st.integers(1, 2),
        "step_budget": st.none() | st.integers(1, 6),
        "joins_at": st.integers(0, 2),
        "transfer": st.sampled_from([None, Transfer(distillation_epochs=2)]),
    }
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    members=st.tuples(work, work, work),
    leaves_after=st.none() | st.integers(1, 2),
    participation=st.sampled_from([1.0, 0.5]),
    distilling=st.sampled_from([None, "phase", "mixed"]),
    limit=st.sampled_from([1.0, 2, 0.5]),
)
def test_everyone_takes_as_many_steps_as_it_was_told(
    members: tuple[dict[str, Any], ...], leaves_after: int | None, participation: float, distilling: Any, limit: Any
) -> None:
    made = {name: planning(seed, **own) for seed, (name, own) in enumerate(zip("abc", members, strict=True))}
    made["a"].joins_at = 0  # Somebody is there to teach.
    if leaves_after is not None:
        made["b"].leaves_at = made["b"].joins_at + leaves_after
    callbacks = [] if distilling is None else [EnsembleDistillation(mode=distilling, batch_size=4, every_n_rounds=2)]
    federation = Federation(dict(made), participation=participation)
    fit(federation, tiny_data(), ROUNDS, *callbacks, BackboneAveraging(), limit_train_batches=limit)
    for name, one in made.items():
        if participation == 1 or distilling is None:
            assert federation.local[name].progress == one.foreseen, name


def test_a_student_and_an_optimizer_of_the_phase_s_own() -> None:
    student = EnsembleDistillation(students="student", batch_size=4, epochs=2)
    check(Federation({name: planning() for name in "abc"}, student=planning()), student)
    apart = EnsembleDistillation(optimizer=sgd(0.01), batch_size=4)
    check(Federation({name: planning() for name in "abc"}), apart)


@pytest.mark.parametrize(("most", "steps"), [(5, (3, 4, 3)), (6, (4, 5, 3)), (100, (9, 12, 9))])
def test_a_number_of_batches_that_ends_the_run(most: int, steps: tuple[int, ...]) -> None:
    # Rounds of 5 batches; c accumulates two, and is left with a step that its round never ends.
    federation = Federation({"a": planning(), "b": planning(), "c": planning(accumulate_grad_batches=2)})
    fit(federation, tiny_data(), ROUNDS, max_steps=most)
    assert tuple(one.foreseen for one in federation.members().values()) == steps
    assert tuple(local.progress for local in federation.local.values()) == steps


class Asking(Participant):
    """Notes what it is told in each step."""

    told: list[Any]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.told.append((self.trainer.num_training_batches, self.trainer.is_last_batch))
        assert isinstance(self.trainer, L.Trainer)
        return super().training_step(batch, batch_idx)


def test_the_batches_of_a_round_and_the_last_of_them_are_its_own() -> None:
    members = {name: Asking(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3), optimizer=sgd()) for name in "abc"}
    for one in members.values():
        one.told = []
    members["a"].local_epochs = 3
    fit(Federation(dict(members)), tiny_data(), 2)
    for name, count in (BATCHES | {"a": 9}).items():
        assert members[name].told == [(count, index == count - 1) for index in range(count)] * 2


def test_everything_else_is_the_trainers() -> None:
    class Stopping(Participant):
        def on_train_epoch_end(self) -> None:
            self.trainer.should_stop = True

    federation = Federation({"a": Stopping(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3), optimizer=sgd())})
    made = fit(federation, tiny_data("a"), 5)
    assert made.current_epoch == 1
    own = federation["a"].trainer
    assert own.callbacks is made.callbacks  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no_such_thing"):
        own.no_such_thing  # type: ignore[attr-defined]  # noqa: B018
    assert deepcopy(federation)["a"]._trainer is None


def test_who_is_not_in_the_data_is_named_as_ever() -> None:
    federation = tiny_federation(("a",))
    federation = Federation({"a": planning(), "z": planning()})
    with pytest.raises(ValueError, match="z"):
        fit(federation, tiny_data(("a",), public=examples(4)), 1)
