"""Entries of a checkpoint on participants' data: schemas, class shares, and values that their tasks learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.data.schema import DataSchema
from hetfed_lightning.participants.own_prior import CLASS_SHARES
from hetfed_lightning.participants.participant import LEARNED, SCHEMA

__all__ = ["saved_class_shares", "saved_learned", "saved_schema"]


def saved_schema(checkpoint: Mapping[str, Any], name: str, ckpt_path: str) -> DataSchema | None:
    """Schema of one participant's data: columns, classes and fillings; None without one.

    Args:
        checkpoint: Checkpoint of a federation.
        name: The participant.
        ckpt_path: Path of the checkpoint, for messages.

    Raises:
        ConfigError: If that entry is damaged.
    """
    own = checkpoint.get("federation", {}).get("own", {}).get(name, {})
    try:
        return DataSchema.from_dict(own[SCHEMA]) if SCHEMA in own else None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{ckpt_path}: of participant {name!r}: {error}. Use another checkpoint.") from error


def saved_learned(checkpoint: Mapping[str, Any], name: str) -> Any:
    """Values that one participant's task learned, such as class weights; None without any.

    Args:
        checkpoint: Checkpoint of a federation.
        name: The participant.
    """
    return checkpoint.get("federation", {}).get("own", {}).get(name, {}).get(LEARNED)


def saved_class_shares(checkpoint: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Class shares of one participant's training data, under their key; empty without any.

    Args:
        checkpoint: Checkpoint of a federation.
        name: The participant.
    """
    own = checkpoint.get("federation", {}).get("own", {}).get(name, {})
    return {CLASS_SHARES: own[CLASS_SHARES]} if CLASS_SHARES in own else {}
