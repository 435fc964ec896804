"""What is promised of runs: nothing is lost when something stops, breaks or fills up."""

from __future__ import annotations

from scripts.promises.promise import Mutation, Promise

PROMISES = (
    Promise(
        "flat",
        "memory, open files and log bytes a round do not grow",
        "rounds of 8 participants with distillation, averaging, validation, TensorBoard, record and checkpoint",
        (
            Mutation(
                "hetfed_lightning/ledger.py",
                "reduced = _reduced(self._entries)\n        self._entries.clear()",
                "reduced = _reduced(self._entries)",
                ("tests/test_ledger.py", "tests/test_soak.py"),
            ),
        ),
    ),
    Promise(
        "logs",
        "logs grow with rounds, not with steps: under 48 bytes a figure and round",
        "20 participants with one step a round, and with up to 88",
        (
            Mutation(
                "hetfed_lightning/logbook.py",
                'if on_step and stage == "train":',
                'if stage == "train":',
                ("tests/test_soak.py",),
            ),
        ),
    ),
)
