"""A participant's own examples and the public set, for ``describe``, ``send`` and ``receive`` of a method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hetfed_lightning.batches import split_batch
from hetfed_lightning.data.collating import batch_of
from hetfed_lightning.distillation.outputs import at_least_float32, two_columns
from hetfed_lightning.local_training.local_step import seed_for
from hetfed_lightning.methods.public_outputs import BATCH, PublicOutputs, on_device
from hetfed_lightning.methods.to_device import to_device
from hetfed_lightning.modes import evaluating
from hetfed_lightning.participants.first_batch import outputs_of
from hetfed_lightning.participants.participant import Participant, output_width

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from hetfed_lightning.federation_view import FederationView


class PrivateExamplesError(ValueError):
    """Raised for a message that would be made of examples protected by DP-SGD."""


class ParticipantData:
    """One participant's training examples and the public set, through its own transforms and network.

    Everything is computed on demand, in evaluation mode and without gradients. If the participant trains with DP-SGD,
    its own examples are refused: a message made of them would reveal them without noise.

    Args:
        federation: The federation, in a fit.
        participant: Owner of the training examples.
        title: Name of the method, for messages.
        together: Outputs on the public set of several participants, computed at once; None to compute them alone.
    """

    def __init__(
        self, federation: FederationView, participant: Participant, title: str, together: PublicOutputs | None = None
    ) -> None:
        self._federation, self._participant, self._title = federation, participant, title
        self._together = together

    @property
    def num_samples(self) -> int:
        """Number of training examples, N; the only statistic of them that DP-SGD leaves public."""
        return self._federation.federated_data.num_samples(self._participant.name or "")

    @property
    def num_public(self) -> int:
        """Number of examples of the public set, P; 0 without one."""
        return self._federation.federated_data.num_public

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The participant's own optimizers."""
        return self._federation.local[self._participant.name or ""].optimizers

    @property
    def kind(self) -> str:
        """Kind of the participant's outputs, such as ``"multiclass"``."""
        return self._participant.task.kind

    @property
    def device(self) -> torch.device:
        """Device of the participant and of all tensors given here."""
        return self._federation.device

    # The participant's own examples

    def batches(self) -> Iterator[tuple[Any, Tensor]]:
        """Transformed inputs and targets of the training set, in order, in batches of :data:`BATCH` on the device.

        Raises:
            PrivateExamplesError: If the participant trains with DP-SGD.
        """
        participant = self._participant
        self._refuse_private()
        data, seen = self._federation.federated_data, 0
        source = data.source(participant.name or "")
        while seen < source.num_samples:
            indices = range(seen, min(seen + BATCH, source.num_samples))
            self._seed("own", seen)
            batch = batch_of(source.dataset, indices, data.collate_fn, participant.label)
            inputs, target = split_batch(participant.on_after_batch_transfer(to_device(self._federation, batch), 0))
            yield inputs, target
            seen += len(indices)

    def _refuse_private(self) -> None:
        if self._participant.privacy is not None:
            raise PrivateExamplesError(
                f"{self._participant.label}: privacy=DPSGD(...) is not possible beside {self._title}, whose message is "
                "made of its examples without noise. Leave out one of the two."
            )

    @cached_property
    def class_counts(self) -> Tensor | None:
        """Training examples of each class, shape ``(C,)``, int64; None for a task without classes.

        They are counted before any transform, mostly without reading inputs. None, too, of a participant whose batches
        are no pairs of inputs and target.

        Raises:
            PrivateExamplesError: If the participant trains with DP-SGD.
        """
        self._refuse_private()
        data, name = self._federation.federated_data, self._participant.name or ""
        first = batch_of(data.source(name).dataset, range(1), data.collate_fn, self._participant.label)
        if split_batch(first)[1] is None:
            return None
        return self._participant.task.class_counts(data.train_targets(name), self.output_width)

    @cached_property
    def targets(self) -> Tensor:
        """Targets of the training set, shape ``(N, ...)``.

        Raises:
            PrivateExamplesError: If the participant trains with DP-SGD.
        """
        return torch.cat([target for _, target in self.batches()])

    @cached_property
    def features(self) -> Tensor:
        """Features of the training set, shape ``(N, D)``, in float32 at least.

        Raises:
            PrivateExamplesError: If the participant trains with DP-SGD.
        """
        return self._own[0]

    @cached_property
    def features_like_public(self) -> Tensor:
        """Features of the training set, shape ``(N, D)``, made of no other inputs than the public set has.

        They are comparable with :attr:`public_features`: a participant that reads several inputs, of which the public
        set lacks some, has features without these. Otherwise they are :attr:`features`.

        Raises:
            PrivateExamplesError: If the participant trains with DP-SGD.
        """
        if not self._participant.missing_inputs(self._first_public):
            return self.features
        known = self._first_public.keys()
        shown = ({key: one for key, one in inputs.items() if key in known} for inputs, _ in self.batches())
        return self._through(shown)[0]

    @cached_property
    def outputs(self) -> Tensor:
        """Outputs on the training set, shape ``(N, C)``, in float32 at least.

        Raises:
            PrivateExamplesError: If the participant trains with DP-SGD.
        """
        return self._own[1]

    @cached_property
    def _own(self) -> tuple[Tensor, Tensor]:
        return self._through(inputs for inputs, _ in self.batches())

    # The public set

    @cached_property
    def reads_public(self) -> bool:
        """True if there is a public set and the participant's network takes anything of its inputs."""
        return self.num_public > 0 and self._participant.reads_any_of(self._first_public)

    @cached_property
    def output_width(self) -> int:
        """Number C of outputs, found with the first public example, or the first of its own if there is none.

        Raises:
            ValueError: If the network cannot take it; names the participant and the shapes.
        """
        return output_width(self._first_outputs)

    @property
    def public_layout(self) -> Tensor:
        """Layout of :attr:`public_outputs`, shape ``(P, C)`` on the device ``"meta"``, found with the first example.

        Raises:
            ValueError: If the network cannot take it; names the participant and the shapes.
        """
        dtype = at_least_float32(self._first_outputs).dtype
        return torch.empty(self.num_public, self.output_width, dtype=dtype, device="meta")

    @cached_property
    def _first_outputs(self) -> Tensor:
        if self.num_public:
            return outputs_of(self._participant, self._first_public, "the public set")
        data, participant = self._federation.federated_data, self._participant
        first = batch_of(data.source(participant.name or "").dataset, range(1), data.collate_fn, participant.label)
        return outputs_of(participant, split_batch(first)[0], "its training set")

    @property
    def _first_public(self) -> Any:
        return self._federation.federated_data.public_inputs(torch.arange(1))

    def public_batches(self) -> Iterator[Any]:
        """Transformed inputs of the public set, in order, in batches of up to :data:`BATCH` on the device.

        Raises:
            ValueError: If there is no public set.
        """
        if self.num_public == 0:
            raise ValueError(
                f"{self._title} needs a public set, and the data module has none: give FederatedDataModule(public=...) "
                "(public_size in the built-in data modules)."
            )
        for indices in torch.arange(self.num_public).split(BATCH):
            self._seed("public", int(indices[0]))
            yield self._participant.transformed(on_device(self._federation, indices))

    @cached_property
    def public_features(self) -> Tensor:
        """Features of the public set, shape ``(P, D)``, in float32 at least."""
        return self._public[0]

    @cached_property
    def public_outputs(self) -> Tensor:
        """Outputs on the public set, shape ``(P, C)``, in float32 at least."""
        if "_public" in vars(self):  # Features were asked for before.
            return self._public[1]
        together = None if self._together is None else self._together.of(self._participant.name or "")
        return self._predicted() if together is None else together

    @cached_property
    def _public(self) -> tuple[Tensor, Tensor]:
        return self._through(self.public_batches())

    # Computation

    @torch.no_grad()
    def _predicted(self) -> Tensor:
        """Outputs on the public set, by whatever ``forward`` the participant has."""
        participant = self._participant
        with evaluating(participant), self._federation.trainer.precision_plugin.forward_context():
            return torch.cat([at_least_float32(two_columns(participant(one))) for one in self.public_batches()])

    @torch.no_grad()
    def _through(self, batches: Iterator[Any]) -> tuple[Tensor, Tensor]:
        """Features and outputs of all batches, one after another."""
        participant, kind = self._participant, type(self._participant)
        has_own_forward = kind.forward is not Participant.forward
        if has_own_forward and kind.features_of is Participant.features_of:
            raise ValueError(
                f"{participant.label}: {self._title} asks for features, and {kind.__name__}.forward is a network of "
                f"its own: write {kind.__name__}.features_of(inputs), or leave out one of the two."
            )
        features, outputs = [], []
        with evaluating(participant), self._federation.trainer.precision_plugin.forward_context():
            for inputs in batches:
                feature = participant.features_of(inputs)
                features.append(at_least_float32(feature))
                output = participant(inputs) if has_own_forward else participant.head(feature)
                outputs.append(at_least_float32(two_columns(output)))
        return torch.cat(features), torch.cat(outputs)

    def _seed(self, what: str, place: int) -> None:
        names = ("method", self._title, what, self._federation.current_round, self._participant.name or "", place)
        seed_for(self._federation, self._participant, *names)
