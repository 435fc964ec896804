"""What is promised of inputs: bad ones are refused by name before training."""

from __future__ import annotations

from scripts.promises.promise import Mutation, Promise

_TABLE = "tests/inputs/test_promised_refusals.py"
_ROW = "test_it_is_refused_before_training"
_FILE = "test_a_configuration_that_is_none"

PROMISES: tuple[Promise, ...] = (
    Promise(
        "bad data",
        "data that does not fit is refused before training, by participant, with what was found and what was expected",
        "image size, feature width, heads; labels out of range, negative, float, text, of one class; no sample, one, "
        "less than a batch; NaN and infinity; a batch of one for BatchNorm: in Python and by command",
        (
            Mutation(
                "hetfed_lightning/federation/preflight.py",
                '        _check_targets(participant, "its training set"',
                '        0 and _check_targets(participant, "its training set"',
                ("tests/inputs/test_bad_data.py::test_labels_that_are_no_classes",),
            ),
            Mutation(
                "hetfed_lightning/federation/preflight.py",
                "        if source.batch_size == 1 or last == 1:\n",
                "        if False:\n",
                ("tests/inputs/test_bad_data.py::test_batchnorm_with_a_batch_of_one",),
            ),
            Mutation(
                "hetfed_lightning/data/examples.py",
                "    if count:\n",
                "    if count < 0:\n",
                ("tests/inputs/test_bad_data.py::test_numbers_that_are_not_finite",),
            ),
        ),
    ),
    Promise(
        "bad settings",
        "settings that cannot be are refused before training, by participant and key",
        "unknown keys, wrong types, names, temperatures, no public set, label spaces, nothing in common, newcomers' "
        "heads, batch sizes, widths below 0 and beyond memory: in Python and by command",
        (
            Mutation(
                "hetfed_lightning/cli/error_messages.py",
                'raise ConfigError(f"{label}: {explained(str(error))}") from error',
                "pass",
                (f"{_TABLE}::{_ROW}[unknown key of a participant]",),
            ),
            Mutation(
                "hetfed_lightning/cli/error_owner.py",
                "in _everyone(model).items():",
                "in ():",
                (f"{_TABLE}::{_ROW}[a width below 0]",),
            ),
            Mutation(
                "hetfed_lightning/methods/averaging/backbone_averaging.py",
                "        if not found:\n            offered",
                "        if False:\n            offered",
                (f"{_TABLE}::{_ROW}[nothing in common]",),
            ),
        ),
    ),
    Promise(
        "bad files",
        "files that cannot be read are refused before training, by file, line, column or key",
        "tables and archives that are missing, empty, cut off, in another encoding, ragged, with text, gaps or too "
        "large numbers; configurations with keys twice, dates, sets, Python objects, depth and repetition without end",
        (
            Mutation(
                "hetfed_lightning/cli/strict_yaml.py",
                "        if key in seen:\n",
                "        if False:\n",
                (f"{_TABLE}::{_FILE}[a participant twice]",),
            ),
            Mutation(
                "hetfed_lightning/cli/strict_yaml.py",
                "    if size > MOST or depth > DEEPEST:\n",
                "    if False:\n",
                (f"{_TABLE}::{_FILE}[repeated repetitions]",),
            ),
            Mutation(
                "hetfed_lightning/cli/strict_yaml.py",
                "        if len(node.value) > MOST:\n",
                "        if False:\n",
                (f"{_TABLE}::{_FILE}[merged merges]",),
            ),
            Mutation(
                "hetfed_lightning/data/sources/frames.py",
                "    if len(frame) == 0:\n",
                "    if False:\n",
                (f"{_TABLE}::{_ROW}[header alone]",),
            ),
        ),
    ),
    Promise(
        "other checkpoint",
        "a checkpoint of another federation is refused by name; one in another order is put in order",
        "participants added, removed, renamed, reordered, of another architecture; files that are cut off, empty, "
        "missing or made by another program: in Python and by command",
        (
            Mutation(
                "hetfed_lightning/federation/resume.py",
                "    if missing or added:\n",
                "    if False:\n",
                ("tests/resume/test_other_checkpoints.py::test_other_participants_are_told_by_name",),
            ),
            Mutation(
                "hetfed_lightning/checkpointing/form.py",
                "        if key not in content:\n",
                "        if False:\n",
                (f"{_TABLE}::test_a_checkpoint_of_another_federation[nobody's]",),
            ),
        ),
    ),
    Promise(
        "fuzzed",
        "whatever is given is dealt with or refused in a sentence of ours, never by a bare error from inside a library",
        "configurations, checkpoints (bytes and form), tables, archives, images, records, partitions, splits, states, "
        "answers, inputs and labels with anything in them, drawn by hypothesis",
        (
            Mutation(
                "hetfed_lightning/cli/forbidden_values.py",
                "    _check_classes(config, (), path)\n",
                "",
                ("tests/inputs/test_fuzzed_configs.py::test_what_was_found_in_a_configuration",),
            ),
            Mutation(
                "hetfed_lightning/checkpointing/form.py",
                "        if not isinstance(value, Tensor) and not key.endswith(EXTRA):\n",
                "        if False:\n",
                ("tests/inputs/test_fuzzed_files.py",),
            ),
            Mutation(
                "hetfed_lightning/data/splits.py",
                "    if isinstance(samples, Tensor) and samples.ndim == 0:\n",
                "    if False:\n",
                ("tests/inputs/test_fuzzed_tensors.py",),
            ),
        ),
    ),
)
