"""FedProto: class means of features travel in place of weights (Tan et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from hetfed_lightning.methods.class_means import KNOWN, mean_over_owners
from hetfed_lightning.methods.messages import Combined, Message
from hetfed_lightning.methods.prototypes import PrototypeMethod
from hetfed_lightning.methods.search_space import log_range, search_space

if TYPE_CHECKING:
    from hetfed_lightning.methods.method import About
    from hetfed_lightning.methods.server_memory import ServerMemory


class FedProto(PrototypeMethod):
    """Local loss ``CE + weight MSE(f, prototype of the class)`` with prototypes that are means over who has the class.

    What travels: class means of features and numbers of examples by class up, a prototype for each class down. The
    means are taken at the round's end by one pass in evaluation mode; published code that collects them during training
    sends those of networks that have moved on.

    Args:
        weight: Weight lambda of the squared distance, a mean over features, at least 0; 1 in the paper.
        weighting: ``"samples"``: prototypes are means of the pooled examples; ``"uniform"``: of the owners' means, as
            in the paper's code.
        predicts: ``"head"`` or ``"prototype"``, the nearest prototype's class as in the paper; the other is measured
            beside.

    Raises:
        ValueError: If a setting is out of its range; before training, if a task is not multiclass, or widths differ.

    Reference:
        Tan et al. (2022), FedProto: Federated Prototype Learning across Heterogeneous Clients, AAAI,
        sections "Global Prototype Aggregation" and "Local Model Update".
    """

    search_space = search_space(weight=log_range(0.01, 10.0))

    def __init__(
        self,
        weight: float = 1.0,
        *,
        weighting: Literal["samples", "uniform"] = "samples",
        predicts: Literal["head", "prototype"] = "head",
    ) -> None:
        super().__init__(weight, predicts)
        if weighting not in {"samples", "uniform"}:
            raise ValueError(f"weighting: expected 'samples' or 'uniform', got {weighting!r}.")
        self.weighting = weighting

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """Prototypes, shape ``(C, D)``; of a class that none of the senders has, the last one.

        Args:
            sent: Means and counts by sender.
            asked: Unused.
            about: Unused.
            server: The last prototypes.
            round_index: Unused.
        """
        del asked, about, round_index
        found = mean_over_owners(list(sent.values()), by_samples=self.weighting == "samples")
        if server.last:
            is_new = found[KNOWN] > 0
            found = {
                key: one.where(is_new if one.ndim == 1 else is_new[:, None], server.last[key].to(one))
                for key, one in found.items()
            }
        return Combined(found, {"classes": float(found[KNOWN].sum())})
