"""What is promised of security: nobody is let in, nothing gets out."""

from __future__ import annotations

from scripts.promises.promise import Mutation, Promise

_CONFIGS = ("tests/security/test_configs_run_no_code.py",)
_CHECKPOINTS = ("tests/security/test_checkpoints_run_no_code.py",)

PROMISES: tuple[Promise, ...] = (
    Promise(
        "config code",
        "a configuration runs no code, imports nothing that it may not, reaches no address",
        "os.system, Popen, runpy, eval, importing functions, addresses and other files, as class, text, list and "
        "mapping, at every parameter of every class that may be named and at every key",
        (
            Mutation("hetfed_lightning/cli/allowlist.py", '    "*",\n', "", _CONFIGS),
            Mutation("hetfed_lightning/cli/allowlist.py", '    "torch.nn.attention",\n', "", _CONFIGS),
            Mutation("hetfed_lightning/cli/allowlist.py", '"image", "multimodal", "text",', '"multimodal",', _CONFIGS),
            Mutation("hetfed_lightning/cli/allowlist.py", "config_read_mode_fsspec_enabled=False", "", _CONFIGS),
            Mutation("hetfed_lightning/cli/reach.py", "if _INSIDE.fullmatch(value):", "if False:", _CONFIGS),
            Mutation("hetfed_lightning/cli/reach.py", "if keys[-1] in FOLDERS and", "if False and", _CONFIGS),
            Mutation("hetfed_lightning/cli/command.py", '["sub_configs"] = False', '["sub_configs"] = True', _CONFIGS),
            Mutation("hetfed_lightning/cli/export.py", "with restricted_imports(allow_import):", "if True:", _CONFIGS),
        ),
    ),
    Promise(
        "checkpoint code",
        "a checkpoint runs no code, and none is fetched from an address",
        "6 ways to run something in 5 forms of file (zip, legacy, tar, a real checkpoint, a second entry), scripted "
        "modules, functions named by hyperparameters, 10 kinds of address, through 8 loaders and 7 commands",
        (
            Mutation(
                "hetfed_lightning/checkpointing/reading.py",
                "weights_only=True, **options",
                '**options | {"weights_only": False, "mmap": False}',
                _CHECKPOINTS,
            ),
            Mutation(
                "hetfed_lightning/checkpointing/reading.py",
                'if "://" in str(path) or "::" in str(path):',
                "if False:",
                _CHECKPOINTS,
            ),
            Mutation(
                "hetfed_lightning/checkpointing/harmless.py", "and _INSTANTIATOR in part", "and False", _CHECKPOINTS
            ),
            Mutation(
                "hetfed_lightning/checkpointing/harmless.py",
                "        refuse_address(checkpoint_path)\n",
                "",
                _CHECKPOINTS,
            ),
        ),
    ),
    Promise(
        "exported alone",
        "an exported participant holds itself alone",
        "one of twelve of a fleet saved, pickled, copied, exported; its bytes searched for the others' weights",
        (
            Mutation(
                "hetfed_lightning/participant.py",
                "                    state[key] = value.clone()\n",
                "                    pass\n",
                ("tests/security/test_what_leaves.py",),
            ),
            Mutation(
                "hetfed_lightning/participant.py",
                '            state["_modules"] = deepcopy(state["_modules"])\n',
                "            pass\n",
                ("tests/security/test_what_leaves.py",),
            ),
        ),
    ),
    Promise(
        "what travels",
        "rules and ensembles receive shared states and answers on the public set: no head, no example, no label",
        "all that a rule and an ensemble are given in two rounds, searched for heads, inputs and labels",
        (
            Mutation(
                "hetfed_lightning/participant.py",
                "return [key for key in keys if any(_matches(key, pattern) for pattern in self.shared)]",
                "return keys",
                ("tests/security/test_what_leaves.py",),
            ),
        ),
    ),
)
