"""What is promised of security: nobody is let in, nothing gets out."""

from __future__ import annotations

from scripts.promises.promise import Mutation, Promise

_AVERAGING = "hetfed_lightning/callbacks/private_averaging.py"
_MEAN = "hetfed_lightning/privacy/private_mean.py"
_DPSGD = "hetfed_lightning/privacy/dpsgd.py"
_FEDERATION = "hetfed_lightning/federation.py"
_PARTICIPANTS = "tests/callbacks/test_private_averaging.py"
_EXAMPLES = "tests/privacy/test_dpsgd.py"

PROMISES: tuple[Promise, ...] = (
    Promise(
        "private",
        "differential privacy is what epsilon says",
        "12 settings against dp-accounting and closed form; 20,000 draws of noise on averages; unequal weights and all "
        "else that voids it; a participant that is quarantined, sends too much, leaves and comes back; checkpoints; "
        "DP-SGD against gradients by hand, layers that mix examples",
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
                "participants=len(expected),",
                "participants=max(1, len(states)),",
                (f"{_PARTICIPANTS}::test_who_is_quarantined_counts_as_no_update_and_pays",),
            ),
            Mutation(
                _AVERAGING,
                "self._ledgers.setdefault(name, Ledger()).add(self.noise_multiplier)",
                "self._ledgers.setdefault(name, Ledger()).add(self.noise_multiplier, name in senders)",
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
                "check_company(trainer, self)",
                "",
                (f"{_PARTICIPANTS}::test_callbacks_that_void_it_are_refused",),
            ),
            Mutation(
                _AVERAGING,
                'federation.ranks.gathered(drawn, ["noise"])["noise"]',
                "private_noise(count)",
                ("tests/strategies/test_two_ranks.py::test_noise_is_drawn_once_for_all_ranks",),
            ),
            Mutation(
                _AVERAGING,
                'ledgers_of(state_dict.get("releases", []))',
                "{}",
                (f"{_PARTICIPANTS}::test_counts_go_on_after_a_checkpoint",),
            ),
            Mutation(
                _AVERAGING,
                "        if self._exceeds(federation, following):\n            log",
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
                _FEDERATION,
                "        take_up_accounts(self, self._saved)\n",
                "",
                (f"{_EXAMPLES}::test_the_account_goes_on_after_a_checkpoint",),
            ),
            Mutation(
                "hetfed_lightning/fleets/kinship.py",
                "if participant.privacy is not None:",
                "if False:",
                (f"{_EXAMPLES}::test_it_averages_distils_and_trains_beside_others_and_in_no_fleet",),
            ),
        ),
    ),
)
