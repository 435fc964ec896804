"""A site's configuration: its participant, its data and the callbacks that take part in rounds."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hetfed_lightning.flower.init.data import is_dealt, local_paths, own_part
from hetfed_lightning.flower.init.refusals import KEPT
from hetfed_lightning.flower.init.source import Source
from hetfed_lightning.flower.init.text import yaml_text
from hetfed_lightning.flower.protocol.deployable import as_list, is_deployable
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation

HEAD = """Site {name} of the federation in {file}, written by `hetfed deploy init`. Whoever runs the site keeps this \
file and what lies beside it; nothing of them is sent. `hetfed fit` would read it too.
The engineer of the site looks at trainer.accelerator and at data; everything else has to be as the others have it."""

TRAINER = """accelerator: cpu, cuda or auto, as this machine has it; precision: the same everywhere, or numbers \
differ. max_epochs is the number of rounds, which the server counts."""

MODEL = """What trains here. start.safetensors, which lies beside this file, holds its initial weights; change the \
architecture and it does not fit any more."""

TRIAL = """A trial: every site reads everyone's data ({kind}) and keeps its own share, so that the numbers are those \
of `hetfed fit`. In an institution put the module that reads its own files in the place of data.init_args.data, and \
take out everyone; README.md shows how."""

OWN = "Paths are relative to the folder of this file. Those of this site:"

ELSEWHERE = "What is read here belongs to this site alone."


def site_text(source: Source, name: str, data: dict[str, Any]) -> str:
    """Content of ``site.yaml``.

    Args:
        source: The federation.
        name: The participant.
        data: Settings of its data module.
    """
    sections = {
        "seed_everything": source.parsed.seed_everything,
        "threads": source.parsed.threads,
        "trainer": trainer_settings(source) | {"callbacks": own_callbacks(source, name) or None},
        "model": {"seed": source.federation.seed, "participants": {name: source.members[name]}},
        "data": data,
    }
    sections["trainer"] = {key: value for key, value in sections["trainer"].items() if value is not None}
    remarks = {"trainer": TRAINER, "model": MODEL, "data": _remark(source, data)}
    return yaml_text(sections, remarks, HEAD.format(name=name, file=source.path.name))


def trainer_settings(source: Source) -> dict[str, Any]:
    """Settings of the Trainer, as written, that a site keeps; the number of rounds in any case."""
    written = source.written.get("trainer") or {}
    kept = {key: written[key] for key in KEPT if written.get(key) is not None}
    return {"max_epochs": source.parsed.trainer.max_epochs} | kept | {"devices": 1}


def callback_settings(source: Source) -> list[dict[str, Any]]:
    """Settings of the callbacks that take part in rounds, as written, in their order.

    ``students`` of a distillation is written out if there is a student, since sites do not know of it.
    """
    written = as_list((source.written.get("trainer") or {}).get("callbacks"))
    found = []
    for one, made in zip(written, source.callbacks, strict=True):
        if not is_deployable(made):
            continue
        settings: dict[str, Any] = {"class_path": one} if isinstance(one, str) else deepcopy(one)
        if isinstance(made, EnsembleDistillation) and made.students == "auto" and source.federation.student is not None:
            settings["init_args"] = (settings.get("init_args") or {}) | {"students": "student"}
        found.append(settings)
    return found


def own_callbacks(source: Source, name: str) -> list[dict[str, Any]]:
    """Settings of a site's callbacks; of values by participant only the site's own.

    Args:
        source: The federation.
        name: The participant.
    """
    found = callback_settings(source)
    for one in found:
        if "init_args" in one:
            one["init_args"] = {key: own_part(value, name, source.names) for key, value in one["init_args"].items()}
    return found


def _remark(source: Source, data: dict[str, Any]) -> str:
    remark = TRIAL.format(kind=type(source.data).__name__) if is_dealt(source) else ELSEWHERE
    paths = local_paths(data)
    if not paths:
        return remark
    return "\n".join([remark, OWN, *(f"  {key}" for key, _ in paths)])
