"""Methods of a user's own between institutions: the numbers, bytes and messages of one process."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hetfed_lightning import (
    BackboneAveraging,
    Combined,
    EnsembleDistillation,
    FederatedCallback,
    FederatedDataModule,
    Transfer,
)
from hetfed_lightning.data import FederatedData
from hetfed_lightning.federation.quarantine import TooFewParticipantsError
from hetfed_lightning.flower.protocol.messages import WORK
from hetfed_lightning.methods.messages import Exchange
from hetfed_lightning.methods.plans import Part
from hetfed_lightning.privacy import DPSGD
from tests.federations import equal, fit, state_of, tiny_data, tiny_participant
from tests.flower.federating import Callbacks, Deployed, Rounds
from tests.methods import planned
from tests.methods.own_methods import (
    Census,
    ClippedMean,
    Common,
    ControlVariates,
    InBall,
    Mutual,
    Nearest,
    Prototypes,
    Rumour,
)
from tests.methods.planned import HEAD, head_then_backbone

pytestmark = pytest.mark.promise("parity")


class Again(Rumour):
    """Sends at a round's start and at its end, of everybody."""

    exchanges = (Exchange("start", "joined"), Exchange("end", "joined"))


class Sampled(Rumour):
    """Sends at both moments, of those who train."""

    exchanges = (Exchange("start"), Exchange("end"))


class Fleeting(Again):
    """Results of a round's start are for its local steps, those of its end for its close."""

    keeps_results = False

    def weight_term(self, parameters: Any, context: Any) -> Any:
        heard = context.received.get("rumour", torch.zeros(()))
        return super().weight_term(parameters, context) + 0.01 * heard * sum(one.sum() for one in parameters.values())

    def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
        found = super().send(participant, data, work, context)
        return {**found, "number": found["number"] + 100 * len(context.received)}


class Whispered(Fleeting):
    """Reaches those who train, and of them the first alone at the end."""

    def receivers(self, when: Any, round_index: int, about: Any, cohorts: Any) -> Any:
        active = cohorts.active_names(round_index)
        return active if when == "start" else active[:1]


class Sharp(EnsembleDistillation):
    """Squares what the ensemble says, in two rounds of three."""

    def is_due(self, round_index: int) -> bool:
        return round_index % 3 != 1

    def combine(self, *args: Any) -> Any:
        found = super().combine(*args)
        targets: Any = found.state
        squared = targets["targets"].square()
        return Combined({"targets": squared / squared.sum(1, keepdim=True)}, found.figures)


class Ended(ControlVariates):
    """Ends the training after the second round."""

    def combine(self, *args: Any) -> Any:
        found = super().combine(*args)
        return type(found)(found.state, {"round": float(args[-1])}, stop=args[-1] == 1)


class EndedEarly(Rumour):
    """Tells as the second round begins that it is the last."""

    def combine(self, *args: Any) -> Any:
        found = super().combine(*args)
        return type(found)(found.state, found.figures, stop=args[-1] == 1)


class Seldom(Prototypes):
    """Sends in every second round, and needs steps."""

    needs_steps = True

    def is_due(self, round_index: int) -> bool:
        return round_index % 2 == 0


class Sick(Prototypes):
    """A message of one participant is not finite in a round."""

    def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
        message = super().send(participant, data, work, context)
        is_sick = participant.name == "b" and context.round_index == 1
        return {key: one * float("nan") if is_sick else one for key, one in message.items()}


class Planned(ControlVariates):
    """Plans two epochs of the backbone in the second round, and rounds weights after each step."""

    def plan(self, participant: Any, moment: Any, round_index: int) -> Sequence[Part]:
        return [Part(epochs=2, trains=("backbone",))] if moment == "local" and round_index == 1 else ()

    def after_step(self, parameters: Any, context: Any) -> None:
        for one in parameters.values():
            one.mul_(0.99)


class Scored(Rumour):
    """Hears those who are not new, of whom one shouts in a round, and weights them by their validation scores."""

    exchanges = (Exchange("end", "joined"),)
    needs_scores = True

    def senders(self, when: Any, round_index: int, about: Any, cohorts: Any) -> list[str]:
        new = cohorts.newcomers(round_index)
        return [name for name in super().senders(when, round_index, about, cohorts) if name not in new]

    def send(self, participant: Any, data: Any, work: Any, context: Any) -> Any:
        message = super().send(participant, data, work, context)
        shouts = participant.name == "b" and context.round_index == 1
        return {**message, "number": message["number"] + 1000 * shouts}

    def fault_of(self, message: Any, kind: str) -> str:
        return super().fault_of(message, kind) or ("it shouts" if message["number"] > 500 else "")

    def combine(self, sent: Any, asked: Any, about: Any, server: Any, round_index: int) -> Any:
        heard = sum(one["number"] * (1 + server.scores.get(name, 0.0)) for name, one in sent.items())
        return Combined({"rumour": heard}, {"heard": float(len(sent)), "scored": float(len(server.scores))})


def named(method: Any, name: str) -> Any:
    method.name = name
    return method


LATER: dict[str, Any] = {"own": {"c": {"joins_at": 1}}, "settings": {"joins_at": {"c": 1}}}
PUPIL: dict[str, Any] = {"joins_at": 1, "transfer": Transfer(distillation_epochs=2)}
LESSONS: dict[str, Any] = {
    "own": {"c": PUPIL},
    "settings": {"joins_at": {"c": 1}, "participation": 0.6},
    "rounds": 5,
}
SAMPLED: dict[str, Any] = {"settings": {"participation": 0.6}, "rounds": 5}
LATE: dict[str, Any] = {"settings": {"joins_at": {"c": 1}, "participation": 0.6}}

IN_PHASE = Part(epochs=1, on="public", batch_size=4)

GRID: dict[str, tuple[Callbacks, dict[str, Any]]] = {
    "prototypes": (lambda: [Prototypes()], {}),
    "control variates, of those who are sampled": (lambda: [ControlVariates()], SAMPLED),
    "both beside averaging, a newcomer": (
        lambda: [Prototypes(), BackboneAveraging(), Rumour()],
        LATER | {"rounds": 4, "settings": {"joins_at": {"c": 1}, "participation": 0.6}},
    ),
    "prototypes and control variates": (
        lambda: [ControlVariates(), Prototypes()],
        LATER | {"participants": {"shared": ("*",)}},
    ),
    "at a round's start": (lambda: [Rumour(), Prototypes()], LATER),
    "at a round's start and end, of everybody": (
        lambda: [Again(), BackboneAveraging()],
        LATER | {"rounds": 4, "settings": {"joins_at": {"c": 1}, "participation": 0.6}},
    ),
    "at a round's start and end, of those who are sampled": (
        lambda: [Sampled()],
        LATER | {"rounds": 4, "settings": {"joins_at": {"c": 1}, "participation": 0.6}},
    ),
    "with modules of its own": (lambda: [Mutual(), BackboneAveraging()], SAMPLED),
    "after each step": (lambda: [InBall(0.3), Rumour()], {}),
    "two of a class": (lambda: [named(Prototypes(1.0), "near"), named(Prototypes(0.1), "far")], {}),
    "beside distillation in a phase": (
        lambda: [EnsembleDistillation(), Prototypes(), named(Seldom(), "seldom")],
        {"rounds": 4},
    ),
    "beside mixed distillation": (lambda: [Rumour(), EnsembleDistillation(mode="mixed"), Prototypes()], {}),
    "plans, and acts after steps": (lambda: [Planned()], SAMPLED | {"rounds": 3}),
    "describes numbers": (lambda: [Census()], LATER),
    "not finite for one of two": (lambda: [named(Prototypes(), "well"), Sick(), BackboneAveraging()], {}),
    "ends": (lambda: [Ended()], {}),
    "ends after a round whose beginning tells so": (lambda: [EndedEarly(), BackboneAveraging()], {"rounds": 4}),
}


def steps(rounds: Sequence[int]) -> Any:
    """Has a participant take steps in some rounds alone."""

    def change(participant: Any) -> None:
        participant.on_train_batch_start = lambda *_: None if participant.current_epoch in rounds else -1

    return change


def late(index: int) -> list[Part]:
    """Fewer steps in one round, none in another."""
    return [Part(steps=(2, 0, 1)[index]), Part(epochs=1 if index == 0 else 0, trains=HEAD)]


GRID["planned work"] = (
    lambda: [planned.Planned({"a": head_then_backbone(1, 1), "b": late}), BackboneAveraging(), Prototypes()],
    {},
)

GRID["answers"] = (
    lambda: [Nearest(), BackboneAveraging(), Common()],
    LATER | {"rounds": 4, "settings": {"joins_at": {"c": 1}, "participation": 0.6}},
)

GRID["hears some, by their scores"] = (lambda: [Scored(), BackboneAveraging()], LATER | {"rounds": 3})

GRID["work after what was received, of newcomers and after the last round"] = (
    lambda: [
        BackboneAveraging(every_n_rounds=2),
        named(planned.Planned(lambda _: [Part(steps=2)], "received"), "received"),
        named(planned.Planned(lambda _: [Part(steps=3, trains=HEAD)], "joined"), "joined"),
        named(planned.Planned(lambda _: [Part(epochs=1)], "last"), "last"),
        Prototypes(),
    ],
    LATER | {"rounds": 4, "settings": {"joins_at": {"c": 1}, "participation": 0.6}},
)

GRID["lessons of who was not sampled as it joined, before a round's start"] = (
    lambda: [EnsembleDistillation(), Rumour(), BackboneAveraging()],
    LESSONS | {"settings": {"joins_at": {"c": 1}, "participation": 0.4}},
)
GRID["lessons of a newcomer, after a round's start"] = (
    lambda: [EnsembleDistillation(mode="mixed"), Rumour(), BackboneAveraging()],
    LESSONS | {"settings": {"joins_at": {"c": 2}}, "own": {"c": PUPIL | {"joins_at": 2}}, "rounds": 4},
)
GRID["lessons of a newcomer, by a phase"] = (
    lambda: [EnsembleDistillation(), Rumour(), BackboneAveraging()],
    LESSONS | {"rounds": 3},
)
GRID["results of their own round alone"] = (lambda: [Fleeting(), BackboneAveraging()], LATER | SAMPLED | LATE)
GRID["results of their own round for some"] = (lambda: [Whispered(), BackboneAveraging()], LATER | SAMPLED | LATE)
GRID["an ensemble of one's own making"] = (
    lambda: [Sharp(), Sharp(mode="mixed", name="mixed"), BackboneAveraging()],
    {"rounds": 4},
)
GRID["learning on the public set"] = (
    lambda: [
        named(planned.FedMD({"local": [Part(on="both", batch_size=4)]}, first=1), "beside"),
        named(planned.FedMD({key: [IN_PHASE] for key in ("received", "joined")}), "after"),
        BackboneAveraging(),
    ],
    LATER | {"rounds": 3},
)
GRID["an averaging of one's own"] = (
    lambda: [ClippedMean(0.01, proximal=0.1)],
    LATER | {"rounds": 4, "settings": {"joins_at": {"c": 1}, "participation": 0.6}},
)

GRID["who takes no step"] = (
    lambda: [named(Seldom(), "seldom"), Prototypes()],
    {"changes": {"a": steps([1])}},
)


def same_as_in_one_fit(deployed: Deployed, run: str, states: Any, metrics: Any) -> None:
    """States to the bit; every figure and all bytes of every round."""
    found = deployed.states(run)
    for name, state in found.items():
        assert equal(state, states[name]), name
    for wanted, own, together in zip(metrics, deployed.notes.metrics, deployed.notes.figures, strict=True):
        known = own | together
        assert {key for key in wanted if key.startswith("federation/bytes")} == {
            key for key in known if key.startswith("federation/bytes")
        }
        missing = {key for key in known if key not in wanted}
        assert not missing
        assert known == pytest.approx({key: wanted[key] for key in known}, abs=1e-6, nan_ok=True)


SLOW = {
    "prototypes",
    "prototypes and control variates",
    "control variates, of those who are sampled",
    "at a round's start",
    "at a round's start and end, of those who are sampled",
    "two of a class",
    "describes numbers",
    "beside mixed distillation",
    "at a round's start and end, of everybody",
    "lessons of a newcomer, after a round's start",
    "lessons of a newcomer, by a phase",
    "results of their own round for some",
    "plans, and acts after steps",
    "planned work",
    "both beside averaging, a newcomer",
    "ends",
}
"""Left to `-m slow`: others have their parts."""


@pytest.mark.parametrize("named", [pytest.param(one, marks=pytest.mark.slow) if one in SLOW else one for one in GRID])
def test_states_figures_and_bytes_are_those_of_one_fit(named: str, tmp_path: Path) -> None:
    callbacks, settings = GRID[named]
    deployed = Deployed("abc", callbacks, tmp_path, **settings)
    states, metrics = deployed.rounds_in_one_fit()
    leader = deployed.lead()
    same_as_in_one_fit(deployed, leader.run_id, states, metrics)


def test_figures_of_further_models_reach_the_coordinator(tmp_path: Path) -> None:
    callbacks: Callbacks = lambda: [Nearest(), Common()]  # noqa: E731 - as short as its like
    deployed = Deployed("abc", callbacks, tmp_path, rounds=2, settings={"participation": 0.6})
    _, metrics = deployed.rounds_in_one_fit()
    deployed.lead()
    for wanted, found in zip(metrics, deployed.notes.metrics, strict=True):
        of_models = {key: one for key, one in wanted.items() if ".common/" in key or ".network/" in key}
        # Of everyone, who was sampled and who was not: loss and accuracy of two models, on own and on all data.
        assert len(of_models) == 3 * 2 * 2 * 2
        assert {key: found[key] for key in of_models} == pytest.approx(of_models, abs=1e-6)


class OfServer(FederatedDataModule):
    """The public set and everyone's sets, as a coordinator with a student has them."""

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        whole = tiny_data("abc").load(("a", "b", "c"))
        return FederatedData({}, {}, {}, whole.public, global_val=whole.global_val, global_test=whole.global_test)


@pytest.mark.parametrize("mode", ["phase", "mixed"])
def test_a_student_beside_participants_that_learn_too(mode: Any, tmp_path: Path) -> None:
    # Beside them stand an ensemble that teaches participants alone, and a method whose results are for their round.
    def callbacks() -> list[FederatedCallback]:
        return [
            EnsembleDistillation(students="both", mode=mode),
            Fleeting(),
            EnsembleDistillation(students="mutual", name="apart"),
        ]

    deployed = Deployed("abc", callbacks, tmp_path)
    together, rounds = deployed.everyone(student=tiny_participant(seed=9)), Rounds()
    fit(together, tiny_data("abc"), deployed.rounds, *callbacks(), rounds)
    states = {name: state_of(one) for name, one in together.members().items()}
    student = tiny_participant(seed=9)
    config: dict[str, Any] = {"student": student, "data": OfServer(), "trainer": {"accelerator": "cpu"}}
    leader = deployed.lead(**config)
    for metrics in deployed.notes.metrics:
        metrics.pop("lr/student")  # A fit leaves rates to the monitor.
    same_as_in_one_fit(deployed, leader.run_id, states, rounds.metrics)
    own = {key for key in rounds.metrics[-1] if key.endswith("/student")}
    assert own
    assert own <= deployed.notes.metrics[-1].keys()


def messages(callbacks: Callbacks, folder: Path, **settings: Any) -> Counter[str]:
    deployed = Deployed("abc", callbacks, folder, **settings)
    deployed.lead()
    return Counter(name for name, kind, *_ in deployed.grid.sent if kind == WORK)


def test_a_round_is_one_message_whatever_methods_send_at_its_end(tmp_path: Path) -> None:
    assert messages(lambda: [Prototypes(), ControlVariates()], tmp_path / "methods") == dict.fromkeys("abc", 4)
    averaged = messages(lambda: [BackboneAveraging()], tmp_path / "averaging")
    beside = messages(lambda: [BackboneAveraging(), Prototypes(), ControlVariates()], tmp_path / "beside")
    assert beside == averaged


def test_an_exchange_at_a_rounds_start_is_one_more(tmp_path: Path) -> None:
    assert messages(lambda: [Rumour()], tmp_path) == dict.fromkeys("abc", 3 * 2 + 1)


def test_coordinator_and_sites_go_on_after_a_restart(tmp_path: Path) -> None:
    def callbacks() -> list[FederatedCallback]:
        return [Prototypes(), BackboneAveraging(), Rumour()]

    settings: dict[str, Any] = LATER | {"rounds": 4, "settings": {"joins_at": {"c": 1}, "participation": 0.6}}
    states, metrics = Deployed("abc", callbacks, tmp_path / "one", **settings).rounds_in_one_fit()
    deployed = Deployed("abc", callbacks, tmp_path / "many", **settings)

    def killed(name: str, order: Any) -> None:
        if name == "c" and order.begin == 2:
            raise KeyboardInterrupt

    deployed.grid.hooks.append(killed)
    first = deployed.coordinator()
    with pytest.raises(KeyboardInterrupt):
        first.lead()
    again = Deployed("abc", callbacks, tmp_path / "many", **settings)
    again.notes = deployed.notes
    leader = again.lead(resume=True)
    assert leader.run_id == first.run_id
    same_as_in_one_fit(again, leader.run_id, states, metrics)


class Mixing(Rumour):
    """Pulls features to the mean of their batch."""

    def example_loss(self, own: Any, inputs: Any, features: Any, *rest: Any) -> Any:
        return own + (features - features.mean(0)).square().sum(1)


def test_a_site_refuses_a_loss_that_mixes_what_dp_sgd_protects(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    privacy = DPSGD(noise_multiplier=4.0, max_grad_norm=1.0, delta=1e-3)
    deployed = Deployed("ab", lambda: [Mixing()], tmp_path, participants={"privacy": privacy})
    with pytest.raises(TooFewParticipantsError):
        deployed.lead()
    assert "is not possible beside Mixing: the gradient of an example's loss depends on the others" in caplog.text


class Stumbles(Prototypes):
    """Its combine fails on what one participant sends in the second round, and is mended afterwards."""

    mended = False

    def combine(self, sent: Any, asked: Any, about: Any, server: Any, round_index: int) -> Any:
        if round_index == 1 and not type(self).mended:
            raise ValueError("no messages like this.")
        return super().combine(sent, asked, about, server, round_index)


def test_messages_that_cannot_be_combined_end_the_run_by_name_and_resume_goes_on(tmp_path: Path) -> None:
    deployed = Deployed("ab", lambda: [Stumbles()], tmp_path)
    with pytest.raises(RuntimeError, match=r"Round 2: Stumbles\.combine fails on the messages of a, b: no .* resume"):
        deployed.lead()
    Stumbles.mended = True
    assert deployed.lead(resume=True).next_round == 3
