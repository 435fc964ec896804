"""The server's configuration: names, rules and times, but no participant's model or data."""

from __future__ import annotations

from typing import Any

from hetfed_lightning.flower.coordinator.server_config import DEADLINE, WAIT
from hetfed_lightning.flower.init.data import PUBLIC
from hetfed_lightning.flower.init.sites import callback_settings, trainer_settings
from hetfed_lightning.flower.init.source import Source
from hetfed_lightning.flower.init.text import yaml_text

HEAD = """The server of the federation in {file}, written by `hetfed deploy init`."""

SITES = """The participants, as node configurations name them; their order is that of the federation."""

DEADLINE_REMARK = """Seconds that sites have for an exchange, such as a round's local work. Who is late costs itself \
that round: take two or three times what the slowest needs."""

WAIT_REMARK = "Seconds in which the sites have to be there at the start."

TRAINER = """max_epochs is the number of rounds. The callbacks are those of the sites: a change here has to be made \
there too."""

MODEL = """min_participants is the quorum: a round goes on if so many sites have answered, and with fewer the run \
ends. participation is the fraction of the sites sampled for a round; seed names the random streams, and is that of \
the sites."""

STUDENT = " The student learns here, from start.safetensors on."

DATA = "What everyone may see, on which the student learns."


def server_text(source: Source) -> str:
    """Content of ``server.yaml``."""
    federation = source.federation
    student = source.written["model"].get("student")
    trainer = trainer_settings(source)
    if student is None:
        trainer = {"max_epochs": trainer["max_epochs"]}
    members = federation.members()
    joins = {name: one.joins_at for name, one in members.items() if one.joins_at}
    leaves = {name: one.leaves_at for name, one in members.items() if one.leaves_at is not None}
    model: dict[str, Any] = {
        "seed": federation.seed,
        "participation": federation.participation,
        "min_participants": federation.min_participants,
        **({"joins_at": joins} if joins else {}),
        **({"leaves_at": leaves} if leaves else {}),
        **({} if student is None else {"student": student}),
    }
    public = {"class_path": "hetfed_lightning.data.PublicDataModule", "init_args": {"path": PUBLIC}}
    seed = source.parsed.seed_everything
    sections = {
        "seed_everything": None if isinstance(seed, bool) else seed,
        "threads": source.parsed.threads,
        "sites": list(source.names),
        "deadline": DEADLINE,
        "wait": WAIT,
        "trainer": trainer | {"callbacks": callback_settings(source)},
        "model": model,
        "data": None if student is None else public,
    }
    remarks = {
        "sites": SITES,
        "deadline": DEADLINE_REMARK,
        "wait": WAIT_REMARK,
        "trainer": TRAINER,
        "model": MODEL + ("" if student is None else STUDENT),
        "data": DATA,
    }
    return yaml_text(sections, remarks, HEAD.format(file=source.path.name))
