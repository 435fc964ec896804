"""Summary of a round in one line of the log."""

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
    """Line such as ``Round 3/15 · 4 of 4 participants · val_accuracy mean 0.82, worst 0.71 (hospital_c) · 12.3 s``.

    Args:
        round_index: The round, from 0.
        rounds: Number of rounds.
        participants: Number of participants that took part to its end.
        asked: Number of participants that were asked to.
        summaries: Summaries of the validation, by metric and True for the global set, which is shown if there is none
            on own sets.
        seconds: Duration of the round; NaN if unknown.
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
