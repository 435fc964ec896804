"""Participants with several inputs: a shared backbone for one of them, personal branches for the others.

A hospital has images, as others do, and a panel of genes of its own. Each input passes through a module of its own, and
the head takes the features of all. The features of a missing input, such as genes in a public set of images, are zeros:
the other inputs still teach and predict. For one input take ``Participant``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hetfed_lightning.participants.participant import Participant

Fusion = Literal["concatenate", "sum"]
"""Combination of features into one vector: concatenated, or summed in a common space."""


class MultiInputParticipant(Participant):
    """Participant whose batches are dictionaries of tensors, with a module for each input that it reads.

    Inputs without a module are ignored. In training all inputs with a module have to be present. In evaluation the
    features of missing inputs are zeros.

    Args:
        backbone: Maps the input ``reads`` to features ``(B, D)``; shared, unless ``shared`` says otherwise.
        head: Maps the fused features ``(B, F)`` to outputs ``(B, C)``; None if the fused features are the outputs.
        reads: Name of the backbone's input.
        branches: Modules that map the other inputs to features ``(B, D_i)``, by input name; their keys in
            ``state_dict`` begin with ``branches``.
        fusion: ``"concatenate"`` joins the features of the backbone and the branches in order; ``"sum"`` adds them, so
            that heads of participants with different inputs have one shape and meaning.
        branch_dropout: Probability, in [0, 1), with which a training example loses the features of a branch, drawn for
            each branch: the head learns to do without it. With 0 it never sees a missing input in training.
        settings: Further arguments of :class:`Participant <hetfed_lightning.Participant>`.

    Raises:
        ValueError: If an input has two modules, or widths do not fit; in use, if no input is readable, or the module of
            a missing input has no ``out_features``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module | None = None,
        *,
        reads: str,
        branches: Mapping[str, nn.Module] | None = None,
        fusion: Fusion = "concatenate",
        branch_dropout: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, head, **settings)
        branches = dict(branches or {})
        if reads in branches:
            raise ValueError(f"branches: {reads!r} is what the backbone reads; name another input, or leave it out.")
        if fusion not in get_args(Fusion):
            raise ValueError(f"fusion: expected 'concatenate' or 'sum', got {fusion!r}.")
        if not 0 <= branch_dropout < 1:
            raise ValueError(f"branch_dropout: expected a probability in [0, 1), got {branch_dropout}.")
        self.reads = reads
        self.branches = nn.ModuleDict(branches)
        self.fusion = fusion
        self.branch_dropout = branch_dropout
        self.widths = {name: _width(module) for name, module in self._modules_by_input().items()}
        self._check_widths()

    def _check_widths(self) -> None:
        known = [width for width in self.widths.values() if width is not None]
        if self.fusion == "sum" and len(set(known)) > 1:
            raise ValueError(f"fusion='sum': expected features of one width, got {_listed(self.widths)}.")
        if len(known) < len(self.widths) and self.fusion == "concatenate":
            return
        fused = sum(known) if self.fusion == "concatenate" else known[0] if known else None
        expected = _in_features(self.head)
        if None not in {expected, fused} and expected != fused:
            raise ValueError(
                f"head: it takes {expected} features, but fusion={self.fusion!r} of {_listed(self.widths)} gives "
                f"{fused}: set its in_features to {fused}."
            )

    # Inputs

    def missing_inputs(self, inputs: Any) -> list[str]:
        """Names of inputs that the participant reads and the batch lacks."""
        found = inputs if isinstance(inputs, Mapping) else {}
        return [name for name in self.widths if name not in found]

    def reads_any_of(self, inputs: Any) -> bool:
        """True if the batch has an input that the participant reads."""
        return len(self.missing_inputs(inputs)) < len(self.widths)

    # The network

    def features_of(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Fused features, shape ``(B, F)``, for transformed inputs by name."""
        return self.fused(inputs)

    def fused(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Fused features, shape ``(B, F)``, the input of the head.

        Args:
            inputs: Transformed inputs by name, shape ``(B, ...)`` each.

        Raises:
            ValueError: If no input is readable, or a module cannot take its input.
        """
        if not isinstance(inputs, Mapping) or not self.reads_any_of(inputs):
            got = ", ".join(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise ValueError(
                f"{self.label}: expected inputs by name, {', '.join(self.widths)} or some of them, got {got}."
            )
        known = {name: self._features(name, inputs[name]) for name in self.widths if name in inputs}
        like = next(iter(known.values()))
        if self.fusion == "sum":
            return sum(list(known.values())[1:], like)
        parts = [known[name] if name in known else self._zeros(name, like) for name in self.widths]
        return torch.cat(parts, dim=1)

    def check_training_inputs(self, inputs: Any) -> None:
        """Refuse own training examples without an input that the participant reads.

        Args:
            inputs: Transformed inputs by name.

        Raises:
            ValueError: If one is missing; names it.
        """
        if missing := self.missing_inputs(inputs):
            raise ValueError(missing_in_training(self, missing, inputs))

    def _features(self, name: str, values: Tensor) -> Tensor:
        module = self._modules_by_input()[name]
        try:
            features: Tensor = module(values)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.label}: its input {name!r} of shape {tuple(values.shape)} does not fit "
                f"{type(module).__name__}: {error}"
            ) from error
        if name != self.reads and self.training and self.branch_dropout > 0:
            keeps = torch.rand(len(features), 1, device=features.device) >= self.branch_dropout
            features = features * keeps
        return features

    def _zeros(self, name: str, like: Tensor) -> Tensor:
        """Zeros in place of the features of a missing input, for as many examples as ``like`` has."""
        width = self.widths[name]
        if width is None:
            kind = type(self._modules_by_input()[name]).__name__
            raise ValueError(
                f"{self.label}: its input {name!r} is missing, and {kind} does not say how wide its features "
                "are: set its attribute out_features, or give the input."
            )
        return like.new_zeros(len(like), width)

    def _modules_by_input(self) -> dict[str, nn.Module]:
        return {self.reads: self.backbone, **self.branches}


def missing_in_training(participant: Participant, missing: list[str], inputs: Any) -> str:
    """Error message for training data without inputs that a participant reads.

    Args:
        participant: Participant that reads them.
        missing: Names of the missing inputs.
        inputs: Inputs of a batch, for the names that are present.
    """
    found = ", ".join(inputs) if isinstance(inputs, Mapping) else f"a {type(inputs).__name__} without names"
    return (
        f"{participant.label} reads {', '.join(map(repr, missing))}, which its training data does not have (it has "
        f"{found}): give the data, correct the name, or leave out that branch."
    )


def _width(module: nn.Module) -> int | None:
    """``out_features`` of a module, or of the last that has it in a chain; None where nothing says so."""
    found = getattr(module, "out_features", None)
    if found is None and isinstance(module, nn.Sequential) and len(module):
        last = list(module)[-1]
        return _width(module[:-1] if isinstance(last, (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Dropout)) else last)
    return found if isinstance(found, int) else None


def _in_features(head: nn.Module) -> int | None:
    """Width that a head takes, where it says so."""
    first = head[0] if isinstance(head, nn.Sequential) and len(head) else head
    found = getattr(first, "in_features", None)
    return found if isinstance(found, int) else None


def _listed(widths: Mapping[str, int | None]) -> str:
    return ", ".join(f"{name} ({'unknown' if width is None else width})" for name, width in widths.items())
