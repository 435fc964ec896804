"""Figures of papers made again, from seeds and without a network.

python scripts/papers.py                                   # all, about a quarter of an hour
python scripts/papers.py --only minimiser representation   # seconds

Data are generated. A figure that is not within its range is printed with "no", and the exit code is 1.
``--rounds`` shortens all trainings, which then need not reach their figures.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `scripts.remaking`, from wherever this is started

import torch

from scripts.remaking import p_fed_me, regressions, representation, stragglers
from scripts.remaking.figures import HEADER, Figure

PAPERS: dict[str, Callable[[int, int | None], list[Figure]]] = {
    "minimiser": regressions.made_again,
    "representation": representation.made_again,
    "synthetic": p_fed_me.made_again,
    "stragglers": stragglers.made_again,
}


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 if a figure is not reached, else 0.

    Args:
        arguments: Of the command line; None for those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PAPERS, default=list(PAPERS), help="which to make; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of draws that are no data of a paper")
    parser.add_argument("--rounds", type=int, help="rounds of every training, in place of the papers'")
    chosen = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("hetfed_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(HEADER, flush=True)
    reached = True
    for name in chosen.only:
        began = time.perf_counter()
        for figure in PAPERS[name](chosen.seed, chosen.rounds):
            print(figure.row(), flush=True)
            reached &= figure.is_reached
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
