"""Seconds of a federated round beside those of a plain PyTorch loop over the same batches, and of other frameworks.

Every workload runs in a process of its own, a round of one program after a round of the plain loop, so that whatever
else the machine does hits both; the ratio of each pair is what counts. Ours runs through Trainer.fit with Lightning's
logger, checkpoints and progress bar on; nobody validates.

    python scripts/bench.py                                      # all workloads, ours beside the plain loop
    python scripts/bench.py --workloads tabular-100 mlp-100 --peers --csv runs/bench.csv --plot docs/bench.png
    python scripts/bench.py --workloads cnn-20 --processes 2     # ours in two processes, the plain loop in one
    python scripts/bench.py --device cuda --workloads cnn-100
    python scripts/bench.py --config configs/digits_fedavg.yaml --bare --rounds 30
    python scripts/bench.py --participants 10 100 1000           # round time and memory against their number
    python scripts/bench.py --soak 500                           # growth of memory over rounds
    python scripts/bench.py --from-csv runs/bench.csv --plot docs/bench.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `scripts.benchmark`, from wherever this is started

from scripts.benchmark.command import run
from scripts.benchmark.processes import MeasurementError


def main() -> None:
    """Read the options and run what they ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("what is measured")
    what.add_argument("--workloads", nargs="+", metavar="NAME", help="All of them if left out, but those of a GPU.")
    what.add_argument("--quick", action="store_true", help="The smallest workload alone, three rounds.")
    what.add_argument("--peers", nargs="*", metavar="NAME", help="Other frameworks too, all of them or those named.")
    what.add_argument("--config", help="A configuration with a BackboneAveraging instead of the workloads.")
    what.add_argument("--participants", nargs="+", type=int, metavar="N", help="784-200-10 MLP, 100 active a round.")
    what.add_argument("--soak", type=int, metavar="ROUNDS", help="Memory over so many rounds, 100 or more.")
    what.add_argument("--no-memory", action="store_true", help="Leave out the runs that measure memory.")
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=int, help="Timed rounds, after one that warms up.")
    how.add_argument("--threads", type=int, default=1, help="Threads of torch in every process.")
    how.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    how.add_argument("--processes", type=int, default=1, help="Processes of ours, by Trainer(strategy='federated').")
    how.add_argument("--engine", help="Federation(engine=...); its default if left out.")
    how.add_argument("--bare", action="store_true", help="Ours without logger, checkpoints, progress bar, summary.")
    output = parser.add_argument_group("output")
    output.add_argument("--csv", type=Path, help="Write every figure there.")
    output.add_argument("--plot", type=Path, help="Draw the ratios there.")
    output.add_argument("--from-csv", type=Path, help="Measure nothing; draw an earlier run's figures.")
    options = parser.parse_args()
    try:
        run(options)
    except ValueError as error:
        parser.error(str(error))
    except MeasurementError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
