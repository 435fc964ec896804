"""The page of commands that goes with a deployment, for the coordinator and for each site."""

from __future__ import annotations

import shlex
from importlib.metadata import version
from pathlib import Path
from string import Template

from hetfed_lightning.callbacks import EnsembleDistillation
from hetfed_lightning.distillation import ClassPriorWeighted
from hetfed_lightning.flower.init.data import is_dealt
from hetfed_lightning.flower.init.source import Source

PAGE = Template("""# The federation of $file between institutions

Written by `hetfed deploy init` of hetfed-lightning $version. $count sites: $names.

| in this folder | who gets it |
|---|---|
| `app/`, `server/` | the coordinator |
| `sites/NAME/` | the site NAME, and nobody else |

A site's folder holds `site.yaml` (its participant, and what data it reads)$public
and `start.safetensors` (the weights that it begins with).

What leaves a site:

$leaves

Its head, its optimizer and its data stay.

## On one machine first

    hetfed deploy local $folder

starts all of what follows on loopback, with TLS and keys, trains, gathers the metrics and stops what it started.

## What everybody installs

Python 3.11 or later, and the same versions at the coordinator and all sites:

    pip install 'hetfed-lightning[flower]==$version'

The coordinator's port 8000 has to be reached from the sites. A site calls out only.

## Coordinator

COORDINATOR stands for the name by which sites reach this machine. What is called `keys/` is made for trying out by

    hetfed deploy keys $folder --host COORDINATOR

and `keys/README.md` says what takes its place in earnest; `keys/NAME.pub` is what the site NAME has sent. Look through
`server/server.yaml` (`deadline`, `wait`, `model.min_participants`), then lead a run:

    hetfed deploy coordinator $folder --host 0.0.0.0 --port 8000

It waits for the sites, shows the rounds and ends with the run: exit code 0 if it went through. Results are in
`runs/`, for `tensorboard --logdir`. After an interruption, go on from the last completed round:

    hetfed deploy coordinator $folder --host 0.0.0.0 --port 8000 --resume

Everything is encrypted, registered keys alone are admitted, and runs are started from the coordinator's machine alone.
A reverse proxy on that machine would make strangers look like its own callers: let it pass `/v1/fleet/` only.

## Each site

Copy `sites/NAME/` to the site's machine, and `keys/ca.pem` into it, by which the site knows the coordinator. There the
site makes its own key, keeps `NAME.key` and sends `NAME.key.pub` to the coordinator, who keeps it as `keys/NAME.pub`:

    ssh-keygen -t ecdsa -b 384 -N "" -f NAME.key

1. Look through `site.yaml`: `trainer.accelerator` and `data`. $data
2. Try the data and the model by themselves, in the folder of `site.yaml`:

       hetfed fit -c site.yaml --trainer.callbacks null --trainer.max_epochs 1 --trainer.default_root_dir trial

3. Take part, for as long as the site wants to; the coordinator is waited for, now and between runs:

       hetfed deploy site FOLDER --coordinator COORDINATOR:8000$allowed

   FOLDER is that of `site.yaml`. What must not be lost between rounds, head and optimizer, is in FOLDER/state, and with
   `privacy` the account of it, `privacy.jsonl`: keep a backup. After an interruption the same command goes on. The
   site runs the program that is installed there, whatever is sent to it.

## Data of your own

`data` in `site.yaml` names a data module: any that `hetfed fit` takes, inside of SiteDataModule. Of a site with a table
of its patients, for instance:

    data:
      class_path: hetfed_lightning.data.SiteDataModule
      init_args:
        participant: $first$example_public
        data:
          class_path: hetfed_lightning.data.TableDataModule
          init_args:
            path: {$first: patients.csv} # in the folder of site.yaml
            target: disease
            classes: [healthy, ill] # where the target is text: all of them, in the same order at every site
            participants: [$first]
            batch_size: 32

$trial## If something is wrong

- A site is not admitted, or does not trust the coordinator: its command says which. The usual reasons are a public key
  that is not in `keys/`, another `ca.pem`, a clock that is wrong, or a proxy (`HTTPS_PROXY`).
- A run ends at once: sites and server are asked what they have before anything is trained, and the error says who
  differs in what.
- A site that is late, fails or sends what is no good costs itself that round, and is named.
- More than what is shown is in the logs: `runs/version_0/engine/` at the coordinator, `state/engine/` at a site.
- Without certificates, in a closed network and for tests alone: `--insecure` at all of them. Everybody is admitted
  then, and everything can be read on the way.

## With the engine's own commands

The same by Flower's programs, for whoever has them running already. Two things are open that are closed above:
`flower-superlink` asks nobody who starts runs or registers keys for a password, so that its paths but `/v1/fleet/` have
to be closed to other machines by a reverse proxy; and `flower-supernode` runs whatever program the coordinator submits.

In every shell, so that the engine calls nobody else and installs nothing:

    export FLWR_TELEMETRY_ENABLED=0
    export FLWR_DISABLE_UPDATE_CHECK=1
    export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1

The coordinator, in the folder of this page:

1. The SuperLink, which carries the messages and is left running:

       flower-superlink --host 0.0.0.0 --port 8000 --database superlink.db \\
         --ssl-ca-certfile keys/ca.pem --ssl-certfile keys/server.pem --ssl-keyfile keys/server-key.pem \\
         --enable-supernode-auth --disable-runtime-dependency-installation

2. Its name in `~/.flwr/config.toml` (or `$$FLWR_HOME/config.toml`), with an absolute path:

       [superlink.$superlink]
       address = "COORDINATOR:8000"
       root-certificates = "/PATH/keys/ca.pem"

3. Every site's public key; nobody else is admitted:

$register

4. The run, once `flwr supernode list $superlink` shows the sites; `--run-config 'resume=true'` goes on with it:

       flwr run app $superlink --stream
       flwr run app $superlink --stream --run-config 'resume=true'

   `app/pyproject.toml` says where `server.yaml` is and where results go; to have them elsewhere,
   `--run-config 'config="/PATH/server.yaml" run-dir="/PATH/run"'`. `flwr list $superlink` has the run's number,
   `flwr log NUMBER $superlink` shows what it said, `flwr stop NUMBER $superlink` ends it.

Each site: the SuperNode, which listens on 127.0.0.1:9094 for its own programs (`--port` where two share a machine).
STATE is a folder for what must not be lost. Paths are absolute.

$supernodes
""")

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
    """The content of the deployment's ``README.md``.

    Args:
        source: The federation.
        folder: Of the deployment.
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


def _leaves(source: Source) -> str:
    """What is sent, a line each."""
    sent = [
        "what its participant shares and others have too",
        "its metrics and its number of examples",
    ]
    ensembles = [one.ensemble for one in source.callbacks if isinstance(one, EnsembleDistillation)]
    if ensembles:
        sent.append("its predictions on the public set")
    if any(isinstance(one, ClassPriorWeighted) for one in ensembles):
        sent.append("how many of its examples are of each class, for which ClassPriorWeighted asks")
    return "\n".join(f"- {one}" for one in sent)
