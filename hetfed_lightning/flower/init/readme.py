"""The page of commands that goes with a deployment, for the coordinator and for each site."""

from __future__ import annotations

import shlex
import textwrap
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template

from hetfed_lightning.flower.init.data import is_dealt
from hetfed_lightning.flower.init.own_code import listed_modules
from hetfed_lightning.flower.init.source import Source
from hetfed_lightning.flower.protocol.deployable import carried_methods
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.methods.method import Method

PAGE = Template(files(__package__).joinpath("deployment.md").read_text(encoding="utf-8"))

SUPERNODE = Template("""    flower-supernode --superlink COORDINATOR:8000 --root-certificates ca.pem \\
      --auth-supernode-private-key $name.key \\
      --node-config 'participant="$name" config="/PATH/site.yaml" state-dir="/PATH/STATE"$more'
""")

TRIAL = """What `hetfed deploy init` wrote is a trial: every site reads everyone's data and keeps its share, so that the
numbers are those of `hetfed fit`.

"""

SUPERLINK = "hetfed"
"""Name of the connection in the engine's own configuration."""


def readme_text(source: Source, folder: Path) -> str:
    """Content of the deployment's ``README.md``.

    Args:
        source: The federation.
        folder: Folder of the deployment.
    """
    names = source.names
    register = [f"       flwr supernode register keys/{name}.pub {SUPERLINK} --name {name}" for name in names]
    more = f' allow-import="{",".join(source.allow_import)}"' if source.allow_import else ""
    dealt = is_dealt(source)
    return PAGE.substitute(
        file=source.path.name,
        version=version("hetfed-lightning"),
        count=len(names),
        names=", ".join(names),
        first=names[0],
        folder=shlex.quote(str(folder)),
        superlink=SUPERLINK,
        public=", `public.safetensors` (what everyone may see)" if source.distils else "",
        code=_code(source),
        leaves=_leaves(source),
        register="\n".join(register),
        allowed="".join(f" --allow_import {one}" for one in source.allow_import),
        data=(
            "It is that of a trial: see below."
            if dealt
            else "Paths are relative to the folder of that file; its comments list those to change."
        ),
        supernodes="\n".join(SUPERNODE.substitute(name=name, more=more) for name in names).rstrip(),
        example_public="\n        public: public.safetensors" if source.distils else "",
        trial=TRIAL if dealt else "",
    )


def _code(source: Source) -> str:
    """Paragraph on code of the user's own; empty without any."""
    copied = listed_modules(source.modules)
    names = dict.fromkeys(one.partition(".")[0] for one in source.allow_import)
    installed = [one for one in names if f"{one}.py" not in copied and f"{one}/" not in copied]
    lines = []
    if copied:
        lines.append(
            f"Code that the configuration names lies in `server/` and in every site's folder: {', '.join(copied)}. "
            "Who runs a folder reads it first, and allows it by `--allow_import`. No code travels between sites and "
            "coordinator: whoever changes it changes it in all folders."
        )
    if installed:
        lines.append(f"To be installed at the coordinator and all sites, in one version: {', '.join(installed)}.")
    return "".join(f"\n{textwrap.fill(one, 120)}\n" for one in lines)


def _leaves(source: Source) -> str:
    """List of all that a site sends, a line each."""
    sent = [
        "what its participant shares and others have too",
        "its metrics and its number of examples",
    ]
    for one in carried_methods(source.callbacks).values():
        sent += _asked_by(one)
    return "\n".join(f"- {one}" for one in dict.fromkeys(sent))


def _asked_by(method: Method) -> list[str]:
    """What one method has a site send."""
    if not isinstance(method, EnsembleDistillation):
        return [f"what {type(method).__name__} describes of its participant before training, and its messages"]
    ensemble, named = method.ensemble, type(method.ensemble).__name__
    made = f"what {named} asks for of each public example, made of its own examples too"
    found = [made if ensemble.has_own_message else "its predictions on the public set"]
    if "class_counts" in ensemble.needs:
        found.append(f"how many of its examples are of each class, for which {named} asks")
    return found
