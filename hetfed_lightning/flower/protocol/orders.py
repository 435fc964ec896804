"""What a coordinator asks of a site, and what the site answers: plain data, whatever carries it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """What a site is to do, in the order of the attributes.

    Attributes:
        run: Which run; states of other runs are not touched.
        finish: The round to close: receive ``shared``, validate; None for none.
        left_out: Why the coordinator left the site out of the round that it closes, for its log; empty if it did not.
        answer: Whether to answer the public set before the next round begins.
        begin: The round to train in; None for none.
        answer_after: Whether to answer the public set after the local steps.
        learn: The round at whose end to learn from ``targets``; None for none.
        keys: What to send at the end, by averaging callback's place; empty where the round does not average, or others
            have to be heard first.
        shared: What is shared, by key, for each averaging callback of the configuration by its place.
        targets: What the ensemble says of the public set, softened, for each distilling callback by its place: learned
            in the local steps of the round that begins, or at the end of the one named by ``learn``.
        lessons: The same, learned by a newcomer before its first local step.
    """

    run: str
    finish: int | None = None
    left_out: str = ""
    answer: bool = False
    begin: int | None = None
    answer_after: bool = False
    learn: int | None = None
    keys: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    shared: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    targets: Mapping[int, Tensor] = field(default_factory=dict)
    lessons: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """What was done when it is carried out, for the site's own log; rounds are counted from one."""
        done = [
            "" if self.finish is None else f"round {self.finish + 1} closed",
            "the public set answered" if self.answer else "",
            "" if self.begin is None else f"round {self.begin + 1} trained",
            "" if self.learn is None else f"round {self.learn + 1} learned from the ensemble",
        ]
        return ", ".join(filter(None, done)) or "sent what is shared"

    @property
    def closing(self) -> Order:
        """What it asks for of the round that it closes, and nothing else."""
        return Order(self.run, finish=self.finish, shared=self.shared)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that what is made of it depends on: the same order, asked again, has the same."""
        found = hashlib.sha256(repr(replace(self, left_out="", shared={}, targets={}, lessons={})).encode())
        tensors = {("shared", place, key): one for place, state in self.shared.items() for key, one in state.items()}
        tensors |= {("targets", place, ""): one for place, one in self.targets.items()}
        tensors |= {("lessons", place, ""): one for place, one in self.lessons.items()}
        for where in sorted(tensors):
            whole = tensors[where].detach().cpu().contiguous()
            found.update(repr((where, tuple(whole.shape), whole.dtype)).encode())
            found.update(whole.flatten().view(torch.uint8).numpy().data if whole.numel() else b"")
        return found.hexdigest()


@dataclass
class Reply:
    """What a site has to say after an order, and nothing else of what it knows.

    Attributes:
        participant: Its name.
        samples: Its training examples.
        metrics: Figures of the round that it closed, by tag.
        finished: The round that it closed; None for none.
        quarantined: Why it left itself out of the round; empty if it did not.
        idle: Whether no optimizer step of the round has changed its weights: it takes part, and has nothing to average.
        answers: Outputs on the public set, shape ``(P, C)``; None where it was not asked.
        shared: What it shares, by key, for each averaging callback by its place.
    """

    participant: str
    samples: int
    metrics: dict[str, float] = field(default_factory=dict)
    finished: int | None = None
    quarantined: str = ""
    idle: bool = False
    answers: Tensor | None = None
    shared: dict[int, dict[str, Tensor]] = field(default_factory=dict)
