"""Layouts of the participants' shared states in the configuration; a site with another layout is refused at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from hetfed_lightning.cli.errors import ConfigError
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.flower.protocol.arrays import Layout
from hetfed_lightning.flower.protocol.method_words import layouts
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.participants.participant import Participant

SHARED = "shared.json"
"""File beside ``server.yaml`` with shape and dtype by participant and key."""


def layouts_text(participants: Mapping[str, Participant], callbacks: Iterable[FederatedCallback]) -> str:
    """Content of the file; a key on each line.

    Args:
        participants: Participants by name.
        callbacks: Callbacks of the configuration.
    """
    averaging = [one for one in callbacks if isinstance(one, BackboneAveraging)]
    found = {
        name: {key: layout for one in averaging for key, layout in layouts(one.shareable(participant)).items()}
        for name, participant in participants.items()
    }
    blocks = []
    for name, own in found.items():
        lines = [f"    {json.dumps(key)}: {json.dumps(layout)}" for key, layout in own.items()]
        blocks.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def read_layouts(path: Path) -> dict[str, dict[str, Layout]]:
    """Layouts in a file, by participant and key; empty if there is no file, when any architecture may take part.

    Raises:
        ConfigError: If it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): {str(key): (tuple(map(int, shape)), str(dtype)) for key, (shape, dtype) in own.items()}
            for name, own in found.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: damaged ({error}). Write it anew with `hetfed deploy init`, or remove it."
        ) from error
