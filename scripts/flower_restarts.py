"""A deployment on this machine in which a node is killed and started again, and the server too: what is lost by it.

    python scripts/flower_restarts.py                                      # configs/digits.yaml, 20 rounds
    python scripts/flower_restarts.py --config configs/hospitals.yaml --rounds 8 --node-kills 2 4 --server-kills 6

Real processes with TLS and keys. `--site` is killed (SIGKILL) in each round of `--node-kills`, by turns when its round
begins and when its local steps are done; the SuperLink, and with it the ServerApp, in each of `--server-kills`, when
somebody's local steps are done. A node is started again at once, as a service manager would; after the server has been
started again the run is resumed. Every state that a site saves is looked at: its head has to go on, to the bit, from
the one that it saved before.

Exits with 1 if a round is missing, a head is lost, a site did more rounds again than there were kills that befell it,
or, where nobody missed a round, the sites do not end within 1e-6 of where `hetfed fit` of the same file ends.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `hetfed_lightning`, from wherever this is started

from hetfed_lightning.checkpointing.reading import read_checkpoint
from hetfed_lightning.flower.deploy.follow_run import SuperLinkEndedError, follow
from hetfed_lightning.flower.deploy.keys import make_keys
from hetfed_lightning.flower.deploy.local import site_config
from hetfed_lightning.flower.engine.executor import APP
from hetfed_lightning.flower.engine.local_engine import LocalEngine
from hetfed_lightning.flower.files.folder import SERVER, KeyFolder, site_names
from hetfed_lightning.flower.init import init_command
from hetfed_lightning.flower.site.site_store import Place, Stage
from hetfed_lightning.logs.run_record import Record
from hetfed_lightning.participants.participant import participant_state
from scripts.restarting.watch import Watch

ROOT = Path(__file__).resolve().parent.parent
NEAR = 1e-6
"""Largest difference from a run in one process that is taken for none."""


@dataclass
class Plan:
    """Who is killed when; what has been done is taken out.

    Attributes:
        site: The node.
        node_kills: Rounds, from 0, in which it is killed.
        server_kills: Rounds, from 0, in which the server is killed.
    """

    site: str
    node_kills: list[int]
    server_kills: list[int]
    done: list[str] = field(default_factory=list)

    def carry_out(self, engine: LocalEngine, watch: Watch) -> None:
        """Kill whoever's time has come."""
        watch.look()
        begins = len(self.done) % 2 == 0
        for round_index in self.node_kills[:1]:
            place = Place(round_index - 1, Stage.FINISHED) if begins else Place(round_index, Stage.TRAINED)
            if watch.reached(self.site, place):
                engine.kill_node(self.site)
                self.node_kills.pop(0)
                self._say(f"{self.site} killed in round {round_index}, {'as it began' if begins else 'its steps done'}")
        for round_index in self.server_kills[:1]:
            if any(watch.reached(name, Place(round_index, Stage.TRAINED)) for name in watch.saved):
                engine.kill_superlink()
                self.server_kills.pop(0)
                self._say(f"server killed in round {round_index}")

    def _say(self, sentence: str) -> None:
        self.done.append(sentence)
        print(f"*** {sentence}", flush=True)


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        watch: What sites saved in it.
        record: What it has recorded.
        rounds: How many were asked for.
        seconds: All of it.
        plan: With what was done.
        far: Largest difference from `hetfed fit`, by site; empty where somebody missed a round.
    """

    watch: Watch
    record: Record
    rounds: int
    seconds: float
    plan: Plan
    far: dict[str, float]

    @property
    def missed(self) -> dict[str, list[int]]:
        """Rounds, from 0, that each site was left out of."""
        found: dict[str, list[int]] = {name: [] for name in self.watch.saved}
        for one in self.record.left_out:
            found[one["participant"]].append(one["round"] - 1)
        return found

    @property
    def redone(self) -> dict[str, list[int]]:
        """Rounds whose local steps each site has saved more than once."""
        saved = {name: self.watch.trained(name) for name in self.watch.saved}
        return {name: sorted({one for one in found if found.count(one) > 1}) for name, found in saved.items()}

    def faults(self) -> list[str]:
        """What is not as it has to be."""
        watch = self.watch
        closed = [one["round"] - 1 for one in self.record.history]
        found = [line for name in watch.saved for line in watch.breaks(name)]
        if closed != list(range(self.rounds)) or not self.record.finished:
            found.append(f"rounds {closed} of {self.rounds} are recorded")
        kills = sum(one.startswith("server") for one in self.plan.done)
        for name, again in self.redone.items():
            allowed = kills if name != self.plan.site else len(self.plan.done)
            if len(again) > allowed:
                found.append(f"{name} did rounds {again} more than once")
        if self.plan.node_kills or self.plan.server_kills:
            found.append("not everything that was planned was done")
        found += [f"{name} ends {far:.1e} from `hetfed fit`" for name, far in self.far.items() if far > NEAR]
        return found

    def table(self) -> str:
        """What came of it, as Markdown."""
        times = [self.watch.closed[one] for one in sorted(self.watch.closed)]
        each = [later - earlier for earlier, later in pairwise(times)]
        summary = (
            f"{len(self.record.history)} of {self.rounds} rounds in {self.seconds:.0f} s; {median(each):.1f} s a round "
            f"(median), {max(each):.1f} s the longest. {'; '.join(self.plan.done)}."
        )
        lines = [
            summary,
            "",
            "| site | rounds missed | rounds done again | heads lost | optimizer steps | from `hetfed fit` |",
            "|---|---|---|---|---|---|",
        ]
        for name, states in self.watch.saved.items():
            far = f"{self.far[name]:.0e}" if name in self.far else "-"
            missed, again = (", ".join(map(str, found[name])) or "none" for found in (self.missed, self.redone))
            lines.append(
                f"| {name} | {missed} | {again} | {len(self.watch.breaks(name))} | {states[-1].steps:,} | {far} |"
            )
        return "\n".join(lines)


def disturbed(config: Path, folder: Path, rounds: int, plan: Plan) -> Result:
    """Deploy a configuration, run it to its end in spite of a plan, and look at what came of it.

    Args:
        config: As `hetfed fit` takes it.
        folder: For everything.
        rounds: How many.
        plan: Who is killed when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    length = folder / "rounds.yaml"
    length.write_text(yaml.safe_dump({"trainer": {"max_epochs": rounds}}), encoding="utf-8")
    deployment, run = folder / "deployment", folder / "run"
    init_command([str(config), str(length), "-o", str(deployment)])
    make_keys(deployment)
    names = site_names(deployment)
    watch = Watch(run, names, deployment)
    told = {name: site_config(deployment, run, name) for name in names}
    began = time.monotonic()
    with LocalEngine(run / "engine", told, keys=KeyFolder(deployment / "keys"), app=APP) as engine:
        resume = False
        while not _led(engine, deployment, run, plan, watch, resume=resume):
            engine.restart_superlink()
            resume = True
        watch.look()
    seconds = time.monotonic() - began
    result = Result(watch, Record.read(run), rounds, seconds, plan, {})
    if not any(result.missed.values()):
        result.far.update(_distances(config, length, folder, list(watch.saved), run))
    return result


def _led(engine: LocalEngine, deployment: Path, run: Path, plan: Plan, watch: Watch, *, resume: bool) -> bool:
    """Whether a run went through; False if the server was killed.

    Raises:
        RuntimeError: If it failed.
    """
    with engine.control() as control:
        config: dict[str, str | bool] = {"config": str(deployment / "server" / SERVER), "run-dir": str(run)}
        number = control.start_run(deployment / "app", config | {"resume": resume})
        try:
            outcome = follow(engine, control, number, lambda: plan.carry_out(engine, watch))
        except SuperLinkEndedError:
            return False
    if not outcome.is_success:
        raise RuntimeError(f"The run failed: {outcome.error or outcome.sub_status}")
    return True


def _distances(config: Path, length: Path, folder: Path, names: Sequence[str], run: Path) -> dict[str, float]:
    """How far the sites' last states are from those of a run in one process, that trains one after another."""
    fitted = folder / "fitted"
    program = "import sys; from hetfed_lightning.cli import main; sys.exit(main())"
    options = ["--model.engine=sequential", f"--trainer.default_root_dir={fitted}", "--trainer.logger=false"]
    command = [sys.executable, "-c", program, "fit", "-c", str(config), "-c", str(length), *options]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)  # noqa: S603 - our own program
    (checkpoint,) = fitted.rglob("*.ckpt")
    whole = read_checkpoint(checkpoint)["state_dict"]
    found = {}
    for name in names:
        last = max((run / "sites" / name).glob("*/*-finished.ckpt"), key=lambda path: path.name)
        here = participant_state(read_checkpoint(last)["state_dict"], name, str(last))
        there = participant_state(whole, name, str(checkpoint))
        found[name] = max(float((here[key].double() - there[key].double()).abs().max()) for key in there)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and print what came of it.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "digits.yaml", help="As of `hetfed fit`.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--site", default="hospital_a", help="Whose node is killed.")
    parser.add_argument("--node-kills", type=int, nargs="*", default=[5, 10], help="Rounds, from 0.")
    parser.add_argument("--server-kills", type=int, nargs="*", default=[14], help="Rounds, from 0.")
    parser.add_argument("--output", type=Path, help="Folder to keep everything in; by default nothing is kept.")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        plan = Plan(options.site, sorted(options.node_kills), sorted(options.server_kills))
        folder = (options.output or Path(temporary)).resolve()
        result = disturbed(options.config.resolve(), folder, options.rounds, plan)
    print(f"\n{result.table()}")
    faults = result.faults()
    print("\n" + ("\n".join(faults) if faults else "Nothing is lost."))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
