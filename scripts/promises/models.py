"""What is promised of models: nobody's faulty numbers reach anybody else."""

from __future__ import annotations

from scripts.promises.promise import Mutation, Promise

PROMISES = (
    Promise(
        "finite",
        "a participant that is not finite poisons nobody",
        "NaN or infinity in 1 of 4 participants' weights, gradients, losses or predictions, in every phase of a round "
        "and through 20 rounds, also with weight 0; too few left",
        (
            Mutation(
                "hetfed_lightning/inspection.py",
                'federation.quarantine(name, "its weights are not finite")',
                "pass",
                ("tests/federation/test_non_finite.py",),
            ),
            Mutation(
                "hetfed_lightning/inspection.py",
                'federation.quarantine(name, "its loss is not finite")',
                "pass",
                ("tests/federation/test_non_finite.py",),
            ),
            Mutation(
                "hetfed_lightning/callbacks/asking.py",
                "if is_finite([logits]):",
                "if True:",
                ("tests/federation/test_non_finite.py",),
            ),
            Mutation(
                "hetfed_lightning/inspection.py",
                "if active and len(left) < federation.min_participants:",
                "if active and not left:",
                ("tests/federation/test_non_finite.py",),
            ),
        ),
    ),
    Promise(
        "unsaved",
        "a model that is not finite is never saved",
        "infinite weights when a checkpoint is due inside a round; weights that never were finite",
        (
            Mutation(
                "hetfed_lightning/federation.py",
                "        without_poison(checkpoint, self)\n",
                "",
                ("tests/federation/test_non_finite.py",),
            ),
        ),
    ),
    Promise(
        "skipped",
        "a step that fp16's loss scale skips is no step",
        "gradients that overflow in some participants' steps, or in all",
        (
            Mutation(
                "hetfed_lightning/callbacks/backbone_averaging.py",
                "if federation.local[name].landed > 0]",
                "]",
                ("tests/precision/test_own_scales.py", "tests/precision/test_every_precision.py"),
            ),
        ),
    ),
    Promise(
        "size",
        "a lie about size is bounded, and what is no size is refused by name",
        "1e12 examples claimed to the average and to both ensembles that count; True, -9, NaN, infinity, 1.5, text",
        (
            Mutation(
                "hetfed_lightning/aggregation/shares.py",
                "return bounded.clamp(max=bound)",
                "return bounded",
                ("tests/aggregation/test_shares.py", "tests/callbacks/test_backbone_averaging.py"),
            ),
            Mutation(
                "hetfed_lightning/aggregation/shares.py",
                "if isinstance(claimed, bool) or not whole or int(claimed) < 0:",
                "if not whole:",
                ("tests/aggregation/test_shares.py",),
            ),
        ),
    ),
)
