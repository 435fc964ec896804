"""Flower's aggregation of given states, in the Python of an environment that has flwr and not this package.

python scripts/rules/flower_worker.py INPUTS.npz OUTPUTS.npz
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from flwr.server.strategy.aggregate import aggregate_krum, aggregate_median, aggregate_trimmed_avg


def answers(states: list[list[Any]], dropped: int, faulty: int, keep: int) -> dict[str, list[Any]]:
    """What each rule makes of one federation's states, by the rule's name."""
    results: Any = [(state, 1) for state in states]
    return {
        "median": aggregate_median(results),
        # It takes the floor: asked for a fraction that lies well inside the number to drop.
        "trimmed mean": aggregate_trimmed_avg(results, (dropped + 0.25) / len(states)),
        "Krum": aggregate_krum(results, faulty, 0),
        "Multi-Krum": aggregate_krum(results, faulty, keep),
    }


def main() -> None:
    """Read the inputs, aggregate, write."""
    inputs = np.load(Path(sys.argv[1]))
    outputs: dict[str, Any] = {}
    for index, settings in enumerate(inputs["settings"].tolist()):
        both = inputs[f"{index}/weight"], inputs[f"{index}/bias"]
        states = [list(tensors) for tensors in zip(*both, strict=True)]
        for rule, (weight, bias) in answers(states, *settings).items():
            outputs |= {f"{index}/{rule}/weight": weight, f"{index}/{rule}/bias": bias}
    np.savez(Path(sys.argv[2]), **outputs)


if __name__ == "__main__":
    main()
