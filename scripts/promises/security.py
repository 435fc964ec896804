"""What is promised of security: nobody is let in, nothing gets out."""

from __future__ import annotations

from scripts.promises.promise import Mutation, Promise

_AVERAGING = "hetfed_lightning/methods/averaging/private_averaging.py"
_MEAN = "hetfed_lightning/privacy/private_mean.py"
_DPSGD = "hetfed_lightning/privacy/dpsgd.py"
_FEDERATION = "hetfed_lightning/federation/federation.py"
_PARTICIPANTS = "tests/methods/averaging/test_private_averaging.py"
_EXAMPLES = "tests/privacy/test_dpsgd.py"
_CONFIGS = "tests/security/test_configs_run_no_code.py"
_CHECKPOINTS = "tests/security/test_checkpoints_run_no_code.py"
_LEAVES = "tests/security/test_what_leaves.py"

PROMISES: tuple[Promise, ...] = (
    Promise(
        "private",
        "differential privacy is what epsilon says",
        "12 settings against dp-accounting and closed form; 20,000 draws of noise on averages; unequal weights and all "
        "else that voids it; a participant that is quarantined, sends too much, leaves and comes back; checkpoints; "
        "DP-SGD against gradients by hand, layers that mix examples; budgets that end, noise of hardly anything",
        (
            Mutation(  # The multiplier is then too small by the number of participants.
                _MEAN,
                "* (noise_multiplier * max_norm)",
                "* (noise_multiplier * max_norm / participants)",
                (f"{_PARTICIPANTS}::test_the_noise_on_the_average_of_k_has_the_multiplier_asked_for",),
            ),
            Mutation(
                _MEAN,
                "clipped = clip_updates(states, previous, max_norm, names)",
                "clipped = list(states)",
                (f"{_PARTICIPANTS}::test_one_participant_moves_the_sum_by_the_norm_at_most",),
            ),
            Mutation(
                _AVERAGING,
                "participants=len(asked),",
                "participants=max(1, len(senders)),",
                (f"{_PARTICIPANTS}::test_who_is_quarantined_counts_as_no_update_and_pays",),
            ),
            Mutation(
                _AVERAGING,
                "self._ledgers.setdefault(name, PrivacyAccount()).add(self.noise_multiplier)",
                "self._ledgers.setdefault(name, PrivacyAccount()).add(self.noise_multiplier, name in senders)",
                (f"{_PARTICIPANTS}::test_who_is_quarantined_counts_as_no_update_and_pays",),
            ),
            Mutation(
                _AVERAGING,
                "check_settings(rule, weighting, buffers)",
                "",
                (f"{_PARTICIPANTS}::test_settings_that_void_it_are_refused",),
            ),
            Mutation(
                _AVERAGING,
                "check_company(trainer.callbacks, self)",
                "",
                (f"{_PARTICIPANTS}::test_callbacks_that_void_it_are_refused",),
            ),
            Mutation(
                _AVERAGING,
                'self._ranks.gathered(drawn, ["noise"])["noise"]',
                "private_noise(count)",
                ("tests/strategies/test_two_ranks.py::test_noise_is_drawn_once_for_all_ranks",),
            ),
            Mutation(
                _AVERAGING,
                'accounts_of(state_dict.get("releases", []))',
                "{}",
                (f"{_PARTICIPANTS}::test_counts_go_on_after_a_checkpoint",),
            ),
            Mutation(
                _AVERAGING,
                "        if self.exceeds(calendar, following):\n            log",
                "        if False:\n            log",
                (f"{_PARTICIPANTS}::test_the_budget_ends_training_before_it_is_exceeded",),
            ),
            Mutation(
                "hetfed_lightning/privacy/noise.py",
                "os.urandom(8 * count)",
                "torch.randint(256, (8 * count,), dtype=torch.uint8).numpy().tobytes()",
                (f"{_PARTICIPANTS}::test_no_seed_repeats_the_noise",),
            ),
            Mutation(  # One release is forgotten.
                "hetfed_lightning/privacy/accountant.py",
                "accountant.compose(event if probability == 1",
                "count = max(1, count - 1)\n        accountant.compose(event if probability == 1",
                ("tests/privacy/test_accountant.py::test_the_closed_form_is_never_undercut",),
            ),
            Mutation(
                _DPSGD,
                "(max_norm * (1 - 1e-6) / norms).clamp(max=1.0).nan_to_num(1.0)",
                "torch.ones_like(norms)",
                (f"{_EXAMPLES}::test_a_step_is_what_each_example_alone_gives",),
            ),
            Mutation(
                _DPSGD,
                "drawn * (noise_multiplier * max_norm)",
                "drawn * noise_multiplier",
                (f"{_EXAMPLES}::test_the_noise_has_the_multiplier_asked_for",),
            ),
            Mutation(  # Batches of a shuffled pass are not what the account assumes.
                "hetfed_lightning/data/loaders.py",
                "if work.poisson:",
                "if False:",
                (f"{_EXAMPLES}::test_batches_vary_and_every_step_is_counted",),
            ),
            Mutation(
                _FEDERATION,
                "        check_privacy(self)\n",
                "",
                (f"{_EXAMPLES}::test_participants_that_void_it_are_refused",),
            ),
            Mutation(
                _FEDERATION,
                "        check_gradients(self)\n",
                "",
                (f"{_EXAMPLES}::test_participants_that_void_it_are_refused",),
            ),
            Mutation(
                "hetfed_lightning/federation/resumed_run.py",
                "        take_up_accounts(federation, self._saved)\n",
                "",
                (f"{_EXAMPLES}::test_the_account_goes_on_after_a_checkpoint",),
            ),
            Mutation(
                "hetfed_lightning/fleets/compatibility.py",
                "if participant.privacy is not None:",
                "if False:",
                (f"{_EXAMPLES}::test_it_averages_distils_and_trains_beside_others_and_in_no_fleet",),
            ),
            Mutation(
                "hetfed_lightning/federation/round_clock.py",
                "        end_if_spent(trainer, federation)\n",
                "",
                (f"{_EXAMPLES}::test_the_budget_ends_training_before_a_round_that_would_exceed_it",),
            ),
            Mutation(
                "hetfed_lightning/federation/round_clock.py",
                "        open_budgets(federation, round_index, batch_idx)\n",
                "",
                (f"{_EXAMPLES}::test_a_trainer_that_has_to_go_on_takes_no_step_beyond_it",),
            ),
            Mutation(
                _AVERAGING,
                "        if count and cost > LARGEST_UNSAID:\n",
                "        if False:\n",
                (f"{_PARTICIPANTS}::test_a_first_release_that_protects_nobody_is_refused_before_training",),
            ),
        ),
    ),
    Promise(
        "config code",
        "a configuration runs no code, imports nothing that it may not, reaches no address",
        "os.system, Popen, runpy, eval, importing functions, addresses and other files, as class, text, list and "
        "mapping, at every parameter of every class that may be named and at every key",
        (
            Mutation(
                "hetfed_lightning/cli/allowlist.py",
                '    "*",\n',
                "",
                ("tests/cli/test_allowlist.py::test_no_parameter_imports_a_module",),
            ),
            Mutation(
                "hetfed_lightning/cli/allowlist.py",
                '    "torch.nn.attention",\n',
                "",
                (f"{_CONFIGS}::test_nothing_that_may_be_named_runs_files_or_fetches",),
            ),
            Mutation(
                "hetfed_lightning/cli/allowlist.py",
                '"image", "multimodal", "text",',
                '"multimodal",',
                (f"{_CONFIGS}::test_nothing_that_may_be_named_runs_files_or_fetches",),
            ),
            Mutation(
                "hetfed_lightning/cli/allowlist.py",
                "config_read_mode_urls_enabled=False, config_read_mode_fsspec_enabled=False",
                "",
                (f"{_CONFIGS}::test_no_address_is_read_by_an_option",),
            ),
            Mutation(
                "hetfed_lightning/cli/forbidden_values.py",
                "if _INSIDE.fullmatch(value):",
                "if False:",
                (f"{_CONFIGS}::test_nothing_inside_of_a_class_may_be_named",),
            ),
            Mutation(
                "hetfed_lightning/cli/forbidden_values.py",
                "if keys[-1] in FOLDERS and",
                "if False and",
                (f"{_CONFIGS}::test_results_are_not_sent_to_an_address",),
            ),
            Mutation(
                "hetfed_lightning/cli/forbidden_values.py",
                '["sub_configs"] = False',
                '["sub_configs"] = True',
                (f"{_CONFIGS}::test_no_file_is_read_that_a_configuration_names",),
            ),
            Mutation(
                "hetfed_lightning/cli/export.py",
                "with restricted_imports(allow_import):",
                "if True:",
                (f"{_CONFIGS}::test_an_exported_participant_names_what_it_may",),
            ),
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
                (f"{_CHECKPOINTS}::test_no_pickle_runs",),
            ),
            Mutation(
                "hetfed_lightning/checkpointing/reading.py",
                'if "://" in str(path) or "::" in str(path):',
                "if False:",
                (f"{_CHECKPOINTS}::test_no_address_is_asked",),
            ),
            Mutation(
                "hetfed_lightning/checkpointing/harmless.py",
                "and _INSTANTIATOR in part",
                "and False",
                (f"{_CHECKPOINTS}::test_no_function_is_called_by_the_name_that_hyperparameters_have",),
            ),
            Mutation(
                "hetfed_lightning/checkpointing/harmless.py",
                "        refuse_address(checkpoint_path)\n",
                "",
                (f"{_CHECKPOINTS}::test_no_address_is_asked_by_who_trusts_it",),
            ),
        ),
    ),
    Promise(
        "exported alone",
        "an exported participant holds itself alone",
        "one of twelve of a fleet saved, pickled, copied, exported; its bytes searched for the others' weights",
        (
            Mutation(
                "hetfed_lightning/participants/participant.py",
                "                    state[key] = value.clone()\n",
                "                    pass\n",
                (_LEAVES,),
            ),
            Mutation(
                "hetfed_lightning/participants/participant.py",
                '            state["_modules"] = deepcopy(state["_modules"])\n',
                "            pass\n",
                (_LEAVES,),
            ),
        ),
    ),
    Promise(
        "what travels",
        "rules and ensembles receive shared states and answers on the public set: no head, no example, no label",
        "all that a rule and an ensemble are given in two rounds, searched for heads, inputs and labels",
        (
            Mutation(
                "hetfed_lightning/participants/participant.py",
                "matched = [key for key in keys if any(matches(key, pattern) for pattern in self.shared)]",
                "matched = keys",
                (_LEAVES,),
            ),
        ),
    ),
)
