"""Parts of a site, made anew from its configuration for every fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache

from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.flower.site.order_checks import MORE_ROUNDS, UNSAID_ROUNDS
from hetfed_lightning.flower.site.site import SiteParts
from hetfed_lightning.flower.site.site_config import read_site_config


def parts_of(config: str, participant: str, allow_import: Sequence[str] = ()) -> Callable[[], SiteParts]:
    """Function that makes the parts of a ``site.yaml`` at each call; the file is read once, and data are loaded once.

    Args:
        config: The file.
        participant: Name of the participant that it has to have.
        allow_import: Packages that it may name beside those that every configuration may.
    """

    @cache
    def read() -> SiteParts:
        found = read_site_config(config, participant, allow_import)
        settings = dict(found.trainer)
        rounds = max(settings.pop("max_epochs", None) or 0, 0)
        callbacks = [one for one in found.callbacks if isinstance(one, FederatedCallback)]
        return SiteParts(
            found.federation, found.data, settings, callbacks, rounds or 1, MORE_ROUNDS * rounds or UNSAID_ROUNDS
        )

    def make() -> SiteParts:
        parts = read()
        federation, callbacks = deepcopy((parts.federation, parts.callbacks))
        return replace(parts, federation=federation, callbacks=callbacks)

    return make
