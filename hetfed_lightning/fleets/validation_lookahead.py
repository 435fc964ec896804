"""Validation of a fleet's members, each on its own set, a batch of every member at once.

Lightning walks through one participant's loader after another. When a member comes to its batch of index k, batch k of
several members is computed at once, and the others' results wait until Lightning comes to their loaders. That is done
only if a batch is known before its loader gives it: data in memory, in order, without a transform on its way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from torch import Tensor

from hetfed_lightning.batches import split_batch
from hetfed_lightning.data.blocks import StackedBatch, stacked
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.loaders import EvaluationLoader, MeasuredLoader
from hetfed_lightning.data.module import FederatedDataModule
from hetfed_lightning.distillation.outputs import at_least_float32
from hetfed_lightning.fleets.batched_evaluation import batched_evaluation
from hetfed_lightning.fleets.engine import Engine
from hetfed_lightning.fleets.fleet import Fleet
from hetfed_lightning.participants.batch_result import Evaluated
from hetfed_lightning.participants.participant import Participant

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView

KEPT = 16 * 2**20
"""Bytes of predictions that may wait; beyond them members are evaluated alone."""

_ON_THE_WAY = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


@dataclass(frozen=True)
class _Group:
    """Members of a fleet whose own sets are evaluated together, with their loaders in the order of Lightning's walk."""

    fleet: Fleet
    engine: Engine
    loaders: dict[str, EvaluationLoader]
    limits: Mapping[str, float]

    def beside(self, owner: str, index: int) -> list[str]:
        """Names of the owner and of members after it that have a batch of this index."""
        names = list(self.loaders)
        later = names[names.index(owner) :]
        return [name for name in later if index < min(len(self.loaders[name]), self.limits[name])]


@dataclass(frozen=True, eq=False)
class _Kept:
    """Evaluation that waits for its batch, with the addresses and versions of its network's weights."""

    evaluated: Evaluated
    weights: tuple[tuple[int, int], ...]


class ValidationLookahead:
    """Evaluations computed ahead of their loaders, in one pass over all validation sets."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._kept: dict[tuple[str, int], _Kept] = {}
        self._federation: FederationView | None = None
        self.bytes_kept = 0

    def open(self, federation: FederationView, seated: Iterable[tuple[Fleet, Sequence[str]]]) -> None:
        """Begin a pass.

        Args:
            federation: Federation in a fit, about to be validated.
            seated: Fleets with an engine, each with the names of its members that are measured here.
        """
        self.close()
        loaders = federation.trainer.val_dataloaders
        if not isinstance(loaders, Mapping) or not _comes_as_it_is(federation):
            return
        limits = dict(zip(loaders, federation.trainer.num_val_batches, strict=True))
        for fleet, names in seated:
            if fleet.engine is None:
                continue
            here = set(names)
            able = [one.name for one in fleet.members if one.name in here and not one.transforms]
            own = {name: loader for name in able if (loader := _known_ahead(loaders.get(name))) is not None}
            own = {
                name: own[name]
                for name in loaders
                if name in own and not steps_its_own_way(federation[name], "validation_step")
            }
            self._groups |= dict.fromkeys(own, _Group(fleet, fleet.engine, own, limits))
        self._federation = federation

    def close(self) -> None:
        """End a pass, wherever it stands."""
        self._groups, self._kept, self._federation, self.bytes_kept = {}, {}, None, 0

    def evaluated(self, owner: str, batch: Any, index: int) -> dict[str, Evaluated]:
        """Evaluation of the owner's network on a batch, by its name; empty if the network has to be asked itself.

        Args:
            owner: Participant whose set the batch is of.
            batch: The batch as its loader gave it, on the device, inputs of shape ``(B, ...)``.
            index: Index of the batch.
        """
        group = self._groups.get(owner)
        if group is None:
            return {}
        if (owner, index) not in self._kept:
            self._look_ahead(group, owner, index)
        found = self._kept.pop((owner, index), None)
        if found is None:
            return {}
        self.bytes_kept -= found.evaluated.predictions.nbytes
        as_it_was = not any(versions_of(batch)) and found.weights == group.fleet.weights_of(owner)
        as_it_was = as_it_was and self._is_as_found(group, owner)
        return {owner: found.evaluated} if as_it_was else {}

    def _is_as_found(self, group: _Group, name: str) -> bool:
        federation = cast("FederationView", self._federation)
        return not federation.fleets.has_bystanders or group.fleet.is_as_found(name)

    def _look_ahead(self, group: _Group, owner: str, index: int) -> None:
        """Evaluate the batches of this index of as many members as there is room for, the owner's among them."""
        if self.bytes_kept > KEPT:
            return
        names = [name for name in group.beside(owner, index) if (name, index) not in self._kept]
        room = group.fleet.room_for(group.loaders[owner].view(index)[0])
        names = [name for name in names[:room] if group.fleet.is_seated(name) and self._is_as_found(group, name)]
        if owner not in names or len(names) < 2:
            return
        names.sort(key=group.fleet.places.__getitem__)
        block = stacked([group.loaders[name].view(index) for name in names])
        block = None if block is None else self._as_it_comes(block)
        outputs = None if block is None else group.fleet.outputs(names, block.inputs, group.engine, common=False)
        if block is None or outputs is None:
            return
        outputs = self._as_own(names, outputs)
        together = batched_evaluation(group.fleet.task, outputs, block.targets, block.mask, block.sizes)
        for name, evaluated in zip(names, together, strict=True):
            # Copied, since a waiting view would keep the whole block in memory.
            own = Evaluated(evaluated.loss, evaluated.predictions.clone(), evaluated.width, evaluated.counts)
            self._kept[name, index] = _Kept(own, group.fleet.weights_of(name))
            self.bytes_kept += evaluated.predictions.nbytes

    def _as_own(self, names: Sequence[str], outputs: Tensor) -> Tensor:
        """Outputs of K members as answers for their own data, shape ``(K, B, C)``."""
        members = [cast("FederationView", self._federation)[name] for name in names]
        if not any(one.own_prior for one in members):
            return outputs
        rows = zip(members, outputs, strict=True)
        return torch.stack([at_least_float32(one.outputs_for("own", own)) for one, own in rows])

    def _as_it_comes(self, block: StackedBatch) -> StackedBatch:
        """The block in the run's precision and on the device, as Lightning would hand out its batches."""
        federation = cast("FederationView", self._federation)
        inputs, targets = federation.trainer.precision_plugin.convert_input((block.inputs, block.targets))
        return replace(block, inputs=inputs, targets=targets).to(federation.device)


def versions_of(batch: Any) -> tuple[int, ...]:
    """Number of times that each tensor of a batch has been written to since it was made."""
    inputs, targets = split_batch(batch)
    tensors = [*(inputs.values() if isinstance(inputs, Mapping) else [inputs]), targets]
    return tuple(one._version for one in tensors if isinstance(one, Tensor) and not one.is_inference())


def steps_its_own_way(participant: Participant, step: str) -> bool:
    """True if a participant evaluates a batch by code of its own instead of ``evaluate_batch``.

    Args:
        participant: The participant.
        step: Name of the step, such as ``"validation_step"``.
    """
    return getattr(getattr(participant, step), "__func__", None) is not getattr(Participant, step)


def _known_ahead(loader: Any) -> EvaluationLoader | None:
    """The loader if it is one of the package's over a set in memory, so that its batches are known ahead; else None."""
    inside = loader.inside if type(loader) is MeasuredLoader else loader
    if type(inside) is not EvaluationLoader or type(inside.dataset).batch is not Examples.batch:
        return None
    return inside


def _comes_as_it_is(federation: FederationView) -> bool:
    """True if no hook changes a batch between its loader and the participant."""
    data = federation.federated_data
    return all(
        getattr(getattr(one, hook), "__func__", None) is getattr(kind, hook)
        for one, kind in ((data, FederatedDataModule), (federation, L.LightningModule))
        for hook in _ON_THE_WAY
    )
