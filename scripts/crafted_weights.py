"""How many training rows an honest reply gives away to a coordinator that sends crafted weights for one round.

    python scripts/crafted_weights.py            # a table, half a minute on one core
    python scripts/crafted_weights.py --rows 50  # another number of rows at the site

The site is the one that `hetfed deploy site` runs, and does what it is told. Every unit of the first layer that it is
sent looks in a direction of its own, with a bias that about one row gets past. Where one row alone has moved a unit,
the change of its weights divided by the change of its bias is that row (Boenisch et al. 2023, "When the curious abandon
honesty"; Fowl et al. 2022, "Robbing the Fed"). A row counts as read if a quotient lies within 1 % of its length.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hetfed_lightning import DPSGD, BackboneAveraging, FederatedDataModule, Federation, Participant
from hetfed_lightning.backbones import MLPBackbone
from hetfed_lightning.data import Examples
from hetfed_lightning.flower.protocol.orders import Order
from hetfed_lightning.flower.site.site import Site, SiteParts

COLUMNS, UNITS, EPOCHS = 12, 512, 10
WEIGHT, BIAS = "backbone.hidden.0.weight", "backbone.hidden.0.bias"


def sgd(parameters: object) -> torch.optim.Optimizer:
    """The optimizer of a site that gives most away."""
    return torch.optim.SGD(parameters, lr=0.05)  # type: ignore[arg-type]  # whatever a participant hands it


def adam(parameters: object) -> torch.optim.Optimizer:
    """The default optimizer: it divides each weight's change by that weight's own past."""
    return torch.optim.Adam(parameters, lr=1e-3)  # type: ignore[arg-type]  # the same


def rows_read(rows: int, optimizer: Callable[[object], torch.optim.Optimizer], privacy: DPSGD | None = None) -> int:
    """Rows of a site that its reply to crafted weights gives away.

    Args:
        rows: That it trains on, of standard normal columns.
        optimizer: Of the site.
        privacy: Of the site.
    """
    features = torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(0))
    targets = (features[:, 0] + features[:, 1] > 0).long()

    def parts() -> SiteParts:
        torch.manual_seed(1)
        backbone = MLPBackbone(COLUMNS, hidden=[UNITS], out_features=16)
        participant = Participant(backbone, nn.Linear(16, 2), optimizer=optimizer, local_epochs=EPOCHS, privacy=privacy)
        data = FederatedDataModule(train={"site": Examples(features, targets)}, batch_size=16)
        federation = Federation({"site": participant}, engine="sequential")
        return SiteParts(federation, data, {"accelerator": "cpu"}, [BackboneAveraging()], 2)

    state = parts().federation["site"].state_dict()
    crafted = {key: value.clone() for key, value in state.items() if key.startswith("backbone.")}
    directions = torch.randn(UNITS, COLUMNS, generator=torch.Generator().manual_seed(99))
    crafted[WEIGHT] = directions / directions.norm(dim=1, keepdim=True)
    threshold = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - 1 / rows))
    crafted[BIAS] = torch.full((UNITS,), -float(threshold))
    with tempfile.TemporaryDirectory() as folder:
        order = Order("run", begin=0, shared={0: crafted}, messages={0: tuple(crafted)})
        reply = Site(parts, folder).carry_out(order).shared[0]
    return _near(features, _quotients(reply, crafted))


def _quotients(reply: dict[str, Tensor], crafted: dict[str, Tensor]) -> Tensor:
    moved, shifted = reply[WEIGHT] - crafted[WEIGHT], reply[BIAS] - crafted[BIAS]
    answering = shifted.abs() > 1e-7
    return moved[answering] / shifted[answering, None]


def _near(features: Tensor, found: Tensor) -> int:
    if not len(found):
        return 0
    distances = torch.cdist(features, found).min(dim=1).values / features.norm(dim=1)
    return int((distances < 0.01).sum())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[40, 200, 1000])
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "hetfed_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    print(f"rows read, of a site that trains {EPOCHS} local epochs on batches of 16\n")
    print(f"{'rows':>6}{'SGD':>8}{'Adam':>8}{'SGD with DP-SGD, noise 1':>28}")
    for rows in options.rows:
        private = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, delta=1e-4, max_epsilon=1e6)
        found = rows_read(rows, sgd), rows_read(rows, adam), rows_read(rows, sgd, private)
        print(f"{rows:>6}{found[0]:>8}{found[1]:>8}{found[2]:>28}", flush=True)


if __name__ == "__main__":
    main()
