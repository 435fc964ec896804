"""Batches of data sets, on the device and in the precision of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView


def to_device(federation: FederationView, batch: Any) -> Any:
    """A batch on the federation's device and in its precision, before any transform.

    Args:
        federation: The federation, in a run.
        batch: Batch as a data set gives it.
    """
    moved = federation.trainer.strategy.batch_to_device(batch, federation.device)
    return federation.trainer.precision_plugin.convert_input(moved)
