"""Local step of one participant on one of its batches, under a seed of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hetfed_lightning.participants.participant import Participant
from hetfed_lightning.seeding import seed_sample, seed_torch, stream_seed

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.federated_callback import FederatedCallback
    from hetfed_lightning.federation_view import FederationView, PublicBatch
    from hetfed_lightning.methods.plans import Span
    from hetfed_lightning.supervised import Supervised


def take_local_step(federation: FederationView, name: str, batch: Any, batch_idx: int) -> None:
    """Transform a batch, compute the loss with the callbacks' terms, run the backward pass, and step.

    Draws depend on (seed, round, participant, batch) alone. An error carries the participant's name, the round and the
    batch as a note.

    Args:
        federation: The federation, in a fit.
        name: Name of the participant.
        batch: Batch of its training data, on the device, before any transform; None if this process's part of a split
            batch is empty.
        batch_idx: Index of the batch in the round, from 0.
    """
    span = federation.plans.span_at(federation, name, batch_idx)
    public = federation.plans.public_at(federation, name, batch_idx)
    take_step(federation, name, batch, batch_idx, span, public, federation.current_round, name, batch_idx)


def take_step(
    federation: FederationView,
    name: str,
    batch: Any,
    batch_idx: int,
    span: Span | None,
    public: Sequence[PublicBatch],
    *stream: int | str,
) -> None:
    """A local step, or one like it at another moment of a round.

    Args:
        federation: In a fit.
        name: Who steps.
        batch: Of its own training data, as for :func:`take_local_step`.
        batch_idx: Its place in the round, or in the plan of that moment.
        span: Part of a plan that the batch belongs to; None without one.
        public: Public batches whose losses are added to that of the batch.
        stream: Names of the stream that the step draws from, beside the seed.
    """
    participant, round_index = federation[name], federation.current_round
    seed_for(federation, participant, *stream, *federation.ranks.stream)
    try:
        with (
            federation.ranks.timing([name], federation.device),
            federation.local[name].scaled(federation.trainer.precision_plugin),
            federation.local[name].collecting(),
        ):
            _step(federation, participant, batch, batch_idx, span, public)
    except Exception as error:
        error.add_note(f"{participant.label}, round {round_index}, batch {batch_idx}")
        raise


def take_public_step(federation: FederationView, name: str, batch_idx: int) -> None:
    """Step on a public batch alone, among the local steps of a round; none before its method has received anything.

    Args:
        federation: In a round.
        name: Who steps.
        batch_idx: Its place in the round.
    """
    span = federation.plans.span_at(federation, name, batch_idx)
    if span is None or federation.local[name].rests:
        return
    public = federation.plans.public_at(federation, name, batch_idx)
    with federation.ranks.timing([name], federation.device):
        learn(federation, name, public, span, batch_idx, federation.current_round, name, batch_idx)


def learn(
    federation: FederationView,
    name: str,
    public: Sequence[PublicBatch],
    span: Span,
    batch_idx: int,
    *stream: int | str,
) -> None:
    """Step on public data alone. Replicas of a participant take it alike: its gradients are summed over no ranks.

    Args:
        federation: In a fit.
        name: Who steps.
        public: Its batch; empty for no step.
        span: Part of a plan that the step belongs to.
        batch_idx: Its place in the round, or in the plan of that moment.
        stream: Names of the stream that the step draws from, beside the seed.
    """
    participant, local = federation[name], federation.local[name]
    plugin = federation.trainer.precision_plugin
    seed_for(federation, participant, *stream)
    try:
        local.enter(span.index, span.part)
        for one in public:
            with plugin.forward_context():
                loss = one.loss(federation, participant)
            with local.scaled(plugin):
                local.descend(loss, federation.backward_of)
        if batch_idx + 1 == span.stop:
            with local.scaled(plugin):
                local.finish()
    except Exception as error:
        where = f"round {federation.current_round}, public batch at step {batch_idx}"
        error.add_note(f"{participant.label}, {where}")
        raise


def seed_for(federation: FederationView, participant: Participant, *names: int | str) -> None:
    """Seed the generators of a participant's step.

    Args:
        federation: Federation with the seed.
        participant: Participant that takes the step.
        names: Names of the stream, beside that seed.
    """
    seed = stream_seed(federation.seed, *names)
    if participant.transform is not None or type(participant) is not Participant:
        seed_sample(seed)  # Code of the user's may draw from NumPy or `random`.
    seed_torch(seed, federation.device)


def _step(
    federation: FederationView,
    participant: Participant,
    batch: Any,
    batch_idx: int,
    span: Span | None,
    public: Sequence[PublicBatch],
) -> None:
    local = federation.local[participant.name or ""]
    if local.rests:
        return
    if span is not None:
        local.enter(span.index, span.part)
    _pass_and_step(federation, participant, batch, batch_idx, public)
    if span is not None and batch_idx + 1 == span.stop:
        local.finish(federation.ranks.reduction)


def _pass_and_step(
    federation: FederationView, participant: Participant, batch: Any, batch_idx: int, public: Sequence[PublicBatch]
) -> None:
    local = federation.local[participant.name or ""]
    reduction = federation.ranks.reduction
    if batch is None:
        local.descend(None, federation.backward_of, reduction)
        return
    batch = participant.on_after_batch_transfer(batch, 0)
    federation.logbook.see(batch)
    if participant.on_train_batch_start(batch, batch_idx) == -1:
        if reduction is not None:
            raise RuntimeError(
                "on_train_batch_start returned -1 for a batch that several processes split: whether the others rest is "
                "not known here. Use step_budget, or let each participant have a process of its own."
            )
        local.rests = True
        return
    output = _output_of(federation, participant, batch, batch_idx)
    if not participant.automatic_optimization:
        local.count_step()
    else:
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if loss is None and reduction is not None:
            raise RuntimeError(
                "training_step returned None for its part of a batch that several processes split: whether the others "
                "step is not known here. Return a loss of 0 instead, or let each participant have a process of its "
                "own (as many devices as participants, or fewer)."
            )
        if loss is not None:
            loss, after_noise = _with_terms(federation, participant, loss, batch_idx, public)
            weight = federation.ranks.weight(participant.name or "", batch_idx)
            loss = loss if weight == 1 else loss * weight
            local.descend(loss, federation.backward_of, reduction, after_noise)
    participant.on_train_batch_end(output, batch, batch_idx)


def _with_terms(
    federation: FederationView, participant: Participant, loss: Tensor, batch_idx: int, public: Sequence[PublicBatch]
) -> tuple[Tensor, list[Tensor]]:
    """Loss with those of public batches and the terms that callbacks add.

    Under DP-SGD terms of weights are no part of it, and public batches are refused before training.
    """
    private = federation.local[participant.name or ""].private is not None
    after_noise: list[Tensor] = []
    for one in public:
        loss = loss + one.loss(federation, participant)
    for callback in federation.adding:
        term = callback.local_loss(federation, participant, batch_idx)
        if term is None:
            continue
        if not private:
            loss = loss + term
        elif callback.loss_is_of_weights():
            after_noise.append(term)
        else:
            raise RuntimeError(
                f"{type(callback).__name__} adds a term to the loss that is no mean over the batch's examples: their "
                "gradients cannot be told apart, and DP-SGD protects nobody. Leave out one of the two, or write a "
                "Method with a weight_term, whose gradient is added after the noise."
            )
    return loss, after_noise


def _output_of(federation: FederationView, participant: Participant, batch: Any, batch_idx: int) -> Any:
    """Result of ``training_step``, with the loss of each example as methods shape it."""
    if not federation.shaping:
        return participant.training_step(batch, batch_idx)
    seen = participant.supervised(batch)
    losses = seen.losses(participant.task)
    participant.log("train_loss", losses.mean().detach(), batch_size=len(losses))
    return _shaped(federation, participant, losses, seen)


def shaped_loss(federation: FederationView, participant: Participant, inputs: Any, target: Tensor) -> Tensor:
    """Mean loss of a batch of the participant's own after the methods' ``example_loss``, a scalar.

    Args:
        federation: The federation, in a round.
        participant: Owner of the batch.
        inputs: Inputs of the backbone, shape ``(B, ...)``.
        target: Targets, shape ``(B, ...)``.
    """
    seen = participant.supervised((inputs, target))
    return _shaped(federation, participant, seen.losses(participant.task), seen)


def _shaped(federation: FederationView, participant: Participant, losses: Tensor, seen: Supervised) -> Tensor:
    for callback in federation.shaping:
        losses = callback.shaped_losses(federation, participant, losses, seen)
    return losses.mean()


def check_shaping(callbacks: Iterable[FederatedCallback], members: Iterable[Participant]) -> None:
    """Refuse methods with a loss of each own example beside participants whose losses are not known example by example.

    Args:
        callbacks: Callbacks that act between participants.
        members: Participants that train on data of their own.

    Raises:
        ValueError: If there are both; names the participant and the method.
    """
    shaping = [one for one in callbacks if one.shapes_loss()]
    own = [one for one in members if has_own_step(one)]
    if shaping and own:
        raise ValueError(
            f"{own[0].label}: {type(shaping[0]).__name__} shapes the loss of each example, and those of "
            f"{type(own[0]).__name__}.training_step are not known. Leave out one of the two, or let training_step and "
            "forward be Participant's."
        )


def has_own_step(participant: Participant) -> bool:
    """True if the loss of a local step is not the task's loss of the head's outputs of the backbone's features."""
    own = type(participant)
    return (
        own.training_step is not Participant.training_step
        or own.forward is not Participant.forward
        or not participant.automatic_optimization
    )
