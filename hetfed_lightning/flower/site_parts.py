"""From a site's configuration to what it trains, made anew for every fit."""

from __future__ import annotations

from hetfed_lightning.flower.site import SiteParts
from hetfed_lightning.flower.site_config import read_site
from hetfed_lightning.rounds import FederatedCallback


def parts_of(config: str, participant: str) -> SiteParts:
    """What a ``site.yaml`` makes.

    Args:
        config: The file.
        participant: Whose it has to be.

    Raises:
        ConfigError: Naming the file and the key.
    """
    found = read_site(config, participant)
    settings = dict(found.trainer)
    rounds = settings.pop("max_epochs", None) or 1
    callbacks = [one for one in found.callbacks if isinstance(one, FederatedCallback)]
    return SiteParts(found.federation, found.data, settings, callbacks, rounds)
