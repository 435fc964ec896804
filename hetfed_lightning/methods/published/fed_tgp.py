"""FedTGP: prototypes that the server trains to be apart (Zhang et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hetfed_lightning.methods.class_means import COUNTS, KNOWN, MEANS, PROTOTYPES, mean_over_owners
from hetfed_lightning.methods.messages import Combined, Message
from hetfed_lightning.methods.prototypes import PrototypeMethod
from hetfed_lightning.methods.search_space import choices, log_range, search_space

if TYPE_CHECKING:
    from hetfed_lightning.methods.method import About
    from hetfed_lightning.methods.server_memory import ServerMemory


class FedTGP(PrototypeMethod):
    """Prototype learning in which the server trains the common prototypes against the participants' class means.

    What travels is what travels in FedProto. The server has a vector for each class, passed through a network of two
    layers, and trains both by cross-entropy over negative distances to all received means, where the distance to the
    own class is enlarged by a margin: the largest of the gaps between a class's mean over participants and its nearest
    neighbour, at most ``most_margin``. Participants learn from ``CE + weight MSE(f, prototype of the class)``.

    Args:
        weight: Weight lambda of the squared distance, a mean over features, at least 0; 10 in the paper.
        server_epochs: Steps of the server in a round, on all received means, at least 1; 100 in the paper's code.
        server_lr: Learning rate of the server's plain gradient descent, above 0; .01 in the paper's code.
        most_margin: Bound tau of the margin, above 0; 100 in the paper.
        predicts: ``"head"`` or ``"prototype"``; the other is measured beside.

    Raises:
        ValueError: If a setting is out of its range; before training, if a task is not multiclass, or widths differ.

    Reference:
        Zhang, Liu, Hua, Cao (2024), FedTGP: Trainable Global Prototypes with Adaptive-Margin-Enhanced Contrastive
        Learning for Data and Model Heterogeneity in Federated Learning, AAAI.
    """

    search_space = search_space(weight=log_range(0.1, 100.0), server_epochs=choices(10, 100))

    def __init__(
        self,
        weight: float = 10.0,
        *,
        server_epochs: int = 100,
        server_lr: float = 0.01,
        most_margin: float = 100.0,
        predicts: Literal["head", "prototype"] = "head",
    ) -> None:
        super().__init__(weight, predicts)
        if server_epochs < 1:
            raise ValueError(f"server_epochs: expected at least 1, got {server_epochs}.")
        for name, value in (("server_lr", server_lr), ("most_margin", most_margin)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a finite number above 0, got {value}.")
        self.server_epochs, self.server_lr, self.most_margin = server_epochs, server_lr, most_margin

    def combine(
        self,
        sent: Mapping[str, Message],
        asked: Sequence[str],
        about: About,
        server: ServerMemory,
        round_index: int,
    ) -> Combined:
        """Trained prototypes, shape ``(C, D)``, and the margin of the round.

        Args:
            sent: Means and counts by sender.
            asked: Unused.
            about: Unused.
            server: The trained vectors and their network.
            round_index: Unused.
        """
        del asked, about, round_index
        messages = list(sent.values())
        means = torch.cat([one[MEANS][one[COUNTS] > 0] for one in messages])
        classes = torch.cat([torch.nonzero(one[COUNTS] > 0)[:, 0] for one in messages])
        count, width = messages[0][MEANS].shape
        makes = server.kept("prototypes", lambda: TrainablePrototypes(count, width)).to(means)
        margin = min(largest_gap(mean_over_owners(messages, by_samples=False)), self.most_margin)
        with torch.enable_grad():
            for _ in range(self.server_epochs):
                apart = torch.cdist(means, makes())
                own = functional.one_hot(classes, count).to(apart)
                loss = functional.cross_entropy(-(apart + margin * own), classes)
                steps = torch.autograd.grad(loss, list(makes.parameters()))
                with torch.no_grad():
                    for parameter, gradient in zip(makes.parameters(), steps, strict=True):
                        parameter.sub_(self.server_lr * gradient)
        seen = server.last.get(KNOWN, means.new_zeros(count)).to(means)
        known = seen.index_fill(0, classes, 1.0)
        return Combined({PROTOTYPES: makes().detach(), KNOWN: known}, {"margin": margin})


class TrainablePrototypes(nn.Module):
    """Vectors of classes through a network of two layers, shape ``(C, D)``.

    Args:
        classes: Number of classes C.
        width: Number of features D.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(classes, width))
        self.network = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self) -> Tensor:
        """The prototypes, shape ``(C, D)``."""
        found: Tensor = self.network(self.vectors)
        return found


def largest_gap(found: Message) -> float:
    """Largest over classes of the distance from a class's mean to the nearest other one; 0 with fewer than two.

    Args:
        found: Means by class and whether they are known.
    """
    known = found[PROTOTYPES][found[KNOWN] > 0]
    if len(known) < 2:
        return 0.0
    apart = torch.cdist(known, known).fill_diagonal_(math.inf)
    return float(apart.amin(dim=1).max())
