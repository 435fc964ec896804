"""What a checkpoint says of the data of its participants, and what their tasks learned of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.participant import LEARNED, SCHEMA
from hetfed_lightning.schema import DataSchema

__all__ = ["saved_learned", "saved_schema"]


def saved_schema(checkpoint: Mapping[str, Any], name: str, ckpt_path: str) -> DataSchema | None:
    """Columns, classes and fillings of one participant; None where its data told nothing.

    Args:
        checkpoint: Of a federation.
        name: The participant.
        ckpt_path: Of the checkpoint, for messages.

    Raises:
        ConfigError: If that part is damaged.
    """
    own = checkpoint.get("federation", {}).get("own", {}).get(name, {})
    try:
        return DataSchema.from_dict(own[SCHEMA]) if SCHEMA in own else None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{ckpt_path}: of participant {name!r}: {error}. Use another checkpoint.") from error


def saved_learned(checkpoint: Mapping[str, Any], name: str) -> Any:
    """Class weights and the like that one participant's task learned; None where it learned nothing.

    Args:
        checkpoint: Of a federation.
        name: The participant.
    """
    return checkpoint.get("federation", {}).get("own", {}).get(name, {}).get(LEARNED)
