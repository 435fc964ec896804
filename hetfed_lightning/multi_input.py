"""A participant of several inputs: a backbone for one that others have too, personal branches for the rest.

A hospital has images, as others do, and a panel of genes of its own. Each input passes through a module of its own,
and the head sees the features of all. Where an input is missing, as genes are in a public set of images, its features
are zeros, so that what is there still teaches and is still predicted from. For one input take ``Participant``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hetfed_lightning.participant import Participant, split_batch

Fusion = Literal["concatenate", "sum"]
"""How features become one vector: side by side, or added up in a common space."""


class MultiInputParticipant(Participant):
    """A participant whose batches are dictionaries of tensors, a module for each input that it reads.

    Of the inputs of a batch it reads those it has a module for, and lets others be. In training all of them have to
    be there; elsewhere it predicts from those that are, the features of the others being zeros.

    Args:
        backbone: Maps the input ``reads`` to features ``(B, D)``; what is shared, unless ``shared`` says otherwise.
        head: Maps the fused features to outputs ``(B, C)``; None where they are the outputs.
        reads: Name of the backbone's input.
        branches: By name of an input, what maps it to features; ``state_dict`` has them below ``branches``.
        fusion: ``"concatenate"`` puts the backbone's features and those of the branches side by side, in order;
            ``"sum"`` adds them up, so that heads of participants with different inputs have one meaning and shape.
        branch_dropout: Probability, in [0, 1), that an example in training loses the features of a branch, each
            branch by itself: the head learns to do without. With 0 it has never seen an input missing.
        settings: As for :class:`Participant <hetfed_lightning.Participant>`.

    Raises:
        ValueError: If an input has two modules, a module does not say its ``out_features``, or widths do not fit.
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
        self.widths = {name: _width(name, module) for name, module in self._modules_by_input().items()}
        if fusion == "sum" and len(set(self.widths.values())) > 1:
            raise ValueError(f"fusion='sum': expected features of one width, got {_listed(self.widths)}.")
        fused = sum(self.widths.values()) if fusion == "concatenate" else self.widths[reads]
        expected = _first_with(self.head, "in_features")
        if expected is not None and expected != fused:
            raise ValueError(
                f"head: it takes {expected} features, but {fusion} of {_listed(self.widths)} gives {fused}: set its "
                f"in_features to {fused}."
            )

    # What it reads

    def missing_inputs(self, inputs: Any) -> list[str]:
        """Names of inputs that it reads and a batch does not have."""
        found = inputs if isinstance(inputs, Mapping) else {}
        return [name for name in self.widths if name not in found]

    def reads_any_of(self, inputs: Any) -> bool:
        """Whether a batch has an input that it reads."""
        return len(self.missing_inputs(inputs)) < len(self.widths)

    # The network

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Outputs ``(B, C)`` for inputs by name that have passed through ``transform``."""
        outputs: Tensor = self.head(self.fused(inputs))
        return outputs

    def fused(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the head sees, shape ``(B, F)``.

        Args:
            inputs: By name, shape ``(B, ...)`` each.

        Raises:
            ValueError: If there is nothing that it reads, or a module cannot take its input.
        """
        if not isinstance(inputs, Mapping) or not self.reads_any_of(inputs):
            got = ", ".join(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
            raise ValueError(
                f"{self.label}: expected inputs by name, {', '.join(self.widths)} or some of them, got {got}."
            )
        known = {name: self._features(name, inputs[name]) for name in self.widths if name in inputs}
        like = next(iter(known.values()))
        parts = [
            known[name] if name in known else like.new_zeros(len(like), width) for name, width in self.widths.items()
        ]
        if self.fusion == "concatenate":
            return torch.cat(parts, dim=1)
        return sum(parts[1:], parts[0])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Supervised loss of one batch, in which every input has to be there."""
        missing = self.missing_inputs(split_batch(batch)[0])
        if missing:
            raise ValueError(missing_in_training(self, missing, split_batch(batch)[0]))
        return super().training_step(batch, batch_idx)

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

    def _modules_by_input(self) -> dict[str, nn.Module]:
        return {self.reads: self.backbone, **self.branches}


def missing_in_training(participant: Participant, missing: list[str], inputs: Any) -> str:
    """How a message says that training data lacks inputs that a participant reads."""
    found = ", ".join(inputs) if isinstance(inputs, Mapping) else f"a {type(inputs).__name__} without names"
    return (
        f"{participant.label} reads {', '.join(map(repr, missing))}, which its training data does not have (it has "
        f"{found}): give the data, correct the name, or leave out that branch."
    )


def _width(name: str, module: nn.Module) -> int:
    found = getattr(module, "out_features", None)
    for inner in reversed(list(module.modules())) if found is None else ():
        found = getattr(inner, "out_features", None)
        if found is not None:
            break
    if not isinstance(found, int):
        raise ValueError(
            f"input {name!r}: {type(module).__name__} does not say how wide its features are: set its attribute "
            "out_features, which stands for them where the input is missing."
        )
    return found


def _first_with(module: nn.Module, attribute: str) -> int | None:
    """What the first module inside, itself included, says of itself; None if none does."""
    found = (getattr(inner, attribute, None) for inner in module.modules())
    return next((value for value in found if isinstance(value, int)), None)


def _listed(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({width})" for name, width in widths.items())
