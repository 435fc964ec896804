"""A round in one line of log."""

from __future__ import annotations

import math
from collections.abc import Mapping

from hetfed_lightning.metrics import FairnessSummary


def round_summary(
    round_index: int,
    rounds: int,
    *,
    participants: int,
    asked: int,
    summaries: Mapping[tuple[str, bool], FairnessSummary],
    seconds: float,
) -> str:
    """Such as ``Round 3/15 · 4 of 4 participants · val_accuracy mean 0.82, worst 0.71 (hospital_c) · 12.3 s``.

    Args:
        round_index: The round, from 0.
        rounds: How many are asked for.
        participants: Who took part in it to its end.
        asked: Who was asked to.
        summaries: Of the validation, by metric and whether it is on everyone's data, which is told where there is none
            on their own.
        seconds: How long it took; NaN where nobody knows.
    """
    parts = [f"Round {round_index + 1}/{rounds}", f"{participants} of {asked} participants"]
    for (headline, everyone), summary in summaries.items():
        if not everyone or (headline, False) not in summaries:
            tag = f"val_{'global_' if everyone else ''}{headline}"
            parts.append(f"{tag} mean {_short(summary.mean)}, worst {_short(summary.worst)} ({summary.worst_name})")
    if not math.isnan(seconds):
        parts.append(f"{seconds:.1f} s")
    return " · ".join(parts)


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
