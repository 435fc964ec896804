"""Orders of a coordinator to a site, and the site's replies: plain data, independent of the transport."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """Work of a site, in the order of the attributes.

    Attributes:
        run: Name of the run; states of other runs are not touched.
        finish: Round to close by receiving ``shared`` and validating; None for none.
        left_out: Reason why the coordinator left the site out of the round that it closes, for its log; empty if it did
            not.
        is_last: True if the round that it closes is the run's last.
        enter: Round to open without training, by receiving ``shared`` if no round is closed, and sending the messages
            of its start; None for none.
        attend: Round to attend without training in it, by receiving ``shared`` if no round is closed, and sending the
            messages of its end; None for none.
        joins: True if the round that it trains in or attends is the participant's first, in a run in progress.
        is_pupil: True if the participant is to take the lessons of its ``transfer`` before anything else of the round
            that it enters or trains in.
        begin: Round to train in; None for none.
        learn: Round, trained in before, at whose end to receive ``shared`` and to take the steps planned after that,
            before it is closed; None for none.
        messages: Messages to send, for each method of the configuration by its place: keys of the state that is the
            message, empty where ``send`` makes it. They are sent as the round opens with ``enter``, at the end of a
            round that is attended, trained or learned in, or as they are without any of these.
        shared: Tensors handed out, of any shape, by key, for each method of the configuration by its place. They are
            received as a round is closed, at the end of round ``learn``, or as a round opens without any of these.
        renewed: Places in ``shared`` whose tensors replace some of those received before, by key, since other groups of
            the participant have no new result; at all other places they replace everything.
    """

    run: str
    finish: int | None = None
    left_out: str = ""
    is_last: bool = False
    enter: int | None = None
    attend: int | None = None
    joins: bool = False
    is_pupil: bool = False
    begin: int | None = None
    learn: int | None = None
    messages: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    shared: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    renewed: tuple[int, ...] = ()

    @property
    def summary(self) -> str:
        """Sentence on the work done, for the site's own log; rounds are counted from one."""
        done = [
            "" if self.finish is None else f"round {self.finish + 1} closed",
            "" if self.enter is None else f"round {self.enter + 1} entered",
            "" if self.attend is None else f"round {self.attend + 1} attended",
            "" if self.begin is None else f"round {self.begin + 1} trained",
            "" if self.learn is None else f"round {self.learn + 1} learned from what came",
        ]
        return ", ".join(filter(None, done)) or "sent what is shared"

    @property
    def closing(self) -> Order:
        """The part of the order that closes a round, and nothing else."""
        return Order(self.run, finish=self.finish, is_last=self.is_last, shared=self.shared, renewed=self.renewed)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that the result depends on, equal if the same order is sent again."""
        found = hashlib.sha256(repr(replace(self, left_out="", shared={})).encode())
        tensors = {("shared", place, key): one for place, state in self.shared.items() for key, one in state.items()}
        for where in sorted(tensors):
            whole = tensors[where].detach().cpu().contiguous()
            found.update(repr((where, tuple(whole.shape), whole.dtype)).encode())
            found.update(whole.flatten().view(torch.uint8).numpy().data if whole.numel() else b"")
        return found.hexdigest()


@dataclass
class Reply:
    """Answer of a site to an order, with nothing else of what it knows.

    Attributes:
        participant: Name of the participant.
        samples: Number of its training examples.
        metrics: Metrics of the round that it closed, by tag.
        finished: Round that it closed; None for none.
        quarantined: Reason why it left itself out of the round; empty if it did not.
        idle: True if no optimizer step of the round changed its weights: it takes part, but has nothing to average.
        shared: Tensors sent, of any shape, by key, for each method by its place.
    """

    participant: str
    samples: int
    metrics: dict[str, float] = field(default_factory=dict)
    finished: int | None = None
    quarantined: str = ""
    idle: bool = False
    shared: dict[int, dict[str, Tensor]] = field(default_factory=dict)
