"""Laws: whatever callbacks do to participants at whatever moment, every engine leads where the sequential one leads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hetfed_lightning import (
    BackboneAveraging,
    EnsembleDistillation,
    FederatedCallback,
    Federation,
    FederationView,
    Participant,
    Phase,
)
from tests.federations import fit
from tests.fleets.kin import NAMES, OPTIMIZERS, classes, furthest, members, network
from tests.fleets.test_changes import moody


def _group(federation: Federation, name: str) -> dict[str, Any]:
    found: dict[str, Any] = federation.local[name].optimizers[0].param_groups[0]
    return found


def _weight(participant: Participant) -> Any:
    return participant.head.weight


def _halved(participant: Participant) -> None:
    weight = _weight(participant)
    weight.data = weight.data * 0.5


def _hooked(participant: Participant) -> None:
    participant.head.register_forward_hook(lambda module, inputs, outputs: 0.5 * outputs)


def _unhooked(participant: Participant) -> None:
    participant.head._forward_hooks.clear()


CHANGES: dict[str, Callable[[Federation, str], Any]] = {
    "freeze the body": lambda f, n: f[n].backbone.requires_grad_(False),
    "thaw the body": lambda f, n: f[n].backbone.requires_grad_(True),
    "freeze the head": lambda f, n: f[n].head.requires_grad_(False),
    "thaw the head": lambda f, n: f[n].head.requires_grad_(True),
    "lower the rate": lambda f, n: _group(f, n).update(lr=_group(f, n)["lr"] / 2),
    "raise the rate": lambda f, n: _group(f, n).update(lr=_group(f, n)["lr"] * 1.5),
    "set weight decay": lambda f, n: _group(f, n).update(weight_decay=0.1),
    "evaluation mode": lambda f, n: f[n].backbone.eval(),
    "training mode": lambda f, n: f[n].train(),
    "scale weights": lambda f, n: _weight(f[n]).data.mul_(0.9),
    "replace data": lambda f, n: _halved(f[n]),
    "add a hook": lambda f, n: _hooked(f[n]),
    "remove hooks": lambda f, n: _unhooked(f[n]),
    "clip": lambda f, n: setattr(f[n], "gradient_clip_val", 0.05),
    "clip nothing": lambda f, n: setattr(f[n], "gradient_clip_val", None),
    "forget the state": lambda f, n: f.local[n].optimizers[0].state.clear(),
    "leave a gradient": lambda f, n: _weight(f[n]).sum().backward() if _weight(f[n]).requires_grad else None,
}


@dataclass(frozen=True)
class Event:
    """What is done to whom, and when: ahead of a step or after it, or (-1) as the round ends."""

    change: str
    name: str
    round_index: int
    batch: int
    after: bool


class Script(FederatedCallback):
    """Does what events say."""

    phase = Phase.GUARD

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events

    def _do(self, federation: Any, batch: int, *, after: bool) -> None:
        for event in self.events:
            if (event.round_index, event.batch, event.after) == (federation.current_round, batch, after):
                CHANGES[event.change](federation, event.name)

    def on_train_batch_start(self, trainer: L.Trainer, federation: Any, batch: Any, batch_idx: int) -> None:
        self._do(federation, batch_idx, after=False)

    def on_train_batch_end(self, trainer: L.Trainer, federation: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._do(federation, batch_idx, after=True)

    def on_round_end(self, trainer: L.Trainer, federation: FederationView, round_index: int) -> None:
        self._do(federation, -1, after=False)


EVENTS = st.lists(
    st.builds(
        Event, st.sampled_from(sorted(CHANGES)), st.sampled_from(NAMES), st.integers(0, 2), st.integers(-1, 3),
        st.booleans(),
    ),
    min_size=2, max_size=6,
)  # fmt: skip


def agree(engine: Any, events: Sequence[Event], optimizer: str, *, distils: bool) -> None:
    ends = []
    for each in ("sequential", engine):
        callbacks: list[L.Callback] = [BackboneAveraging(), Script(events)]
        if distils:
            callbacks.append(EnsembleDistillation(batch_size=4))
        parts = members(OPTIMIZERS[optimizer], moody if engine == "vmap" else network)
        federation = Federation(parts, engine=each)
        fit(federation, classes(torch.float64, public=8), 3, *callbacks, precision="64-true")
        ends.append(federation)
    assert furthest(ends[1], ends[0]) < 1e-9
    for name in NAMES:
        one, other = (end.local[name] for end in ends)
        assert (one.landed, one.progress) == (other.landed, other.progress)


@example("batched", [Event("freeze the body", "b", 0, 1, False), Event("thaw the body", "b", 1, 2, True)], "adam", True)
@example(
    "vmap", [Event("evaluation mode", "d", 0, 1, True), Event("replace data", "a", 1, 1, False)], "momentum", False
)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["auto", "batched", "vmap"]), EVENTS, st.sampled_from(["momentum", "adam"]), st.booleans())
def test_any_engine_follows_what_callbacks_do(engine: Any, events: list[Event], optimizer: str, distils: bool) -> None:
    agree(engine, events, optimizer, distils=distils)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["auto", "batched", "vmap"]), EVENTS, st.sampled_from(["momentum", "adam", "sgd"]), st.booleans()
)
def test_any_engine_follows_many_things(engine: Any, events: list[Event], optimizer: str, distils: bool) -> None:
    agree(engine, events, optimizer, distils=distils)
