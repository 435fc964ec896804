"""Names that tell two callbacks of one class apart: their states lie side by side in checkpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import lightning as L

from hetfed_lightning.cli.errors import ConfigError


def refuse_equal_names(callbacks: Sequence[L.Callback] | L.Callback) -> None:
    """Refuse two callbacks whose states a checkpoint could not tell apart, where a name would.

    Args:
        callbacks: Callbacks of a configuration, made.

    Raises:
        ConfigError: If two that may be named have one name; says the class and the setting.
    """
    named: list[Any] = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
    counts = Counter(one.state_key for one in named if hasattr(one, "name") and hasattr(one, "title"))
    for key, count in counts.items():
        if count > 1:
            kind = key.partition(":")[0]
            raise ConfigError(
                f"trainer.callbacks: {count} of them are {key}, and a checkpoint could not tell their states apart. "
                f"Give each {kind} a name of its own (init_args: {{name: ...}})."
            )
