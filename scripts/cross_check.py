"""Do median, trimmed mean, Krum and Multi-Krum say what another implementation says? Random states, ours and Flower's.

python scripts/cross_check.py --inputs 1000

Flower runs in an environment of its own below ``.bench-venv``, made at the first call, or in that of ``--python``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `scripts.rules`, from wherever this is started

from scripts.rules.against_flower import FLOWER, differences, flower_python, random_case


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="number of random federations")
    parser.add_argument("--python", type=Path, help="of an environment that has flwr")
    options = parser.parse_args()
    cases = [random_case(seed) for seed in range(options.inputs)]
    print(f"{options.inputs} random federations of 5 to 15 participants, float64; largest difference from {FLOWER}")
    for rule, worst in differences(cases, options.python or flower_python()).items():
        print(f"{rule:<14}{worst:.1e}")


if __name__ == "__main__":
    main()
