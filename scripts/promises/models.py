"""What is promised of models: nobody's faulty numbers reach anybody else."""

from __future__ import annotations

from scripts.promises.promise import Mutation, Promise

PROMISES = (
    Promise(
        "finite",
        "a participant that is not finite poisons nobody",
        "NaN or infinity in 1 of 4 participants' weights, gradients, losses or predictions, in every phase of a round",
        (
            Mutation(
                "hetfed_lightning/inspection.py",
                'federation.quarantine(name, "its weights are not finite")',
                "pass",
                ("tests/federation/test_non_finite.py",),
            ),
        ),
    ),
)
