"""What is promised of security: nobody is let in, nothing gets out."""

from __future__ import annotations

from scripts.promises.promise import Mutation, Promise

_AVERAGING = "hetfed_lightning/callbacks/private_averaging.py"
_PRIVATE = "tests/callbacks/test_private_averaging.py"
_EXAMPLES = "tests/privacy/test_dpsgd.py"

PROMISES: tuple[Promise, ...] = (
    Promise(
        "private",
        "differential privacy is what epsilon says",
        "12 settings against dp-accounting and closed form; 10,000 draws of noise on averages; unequal weights and all "
        "else that voids it; a participant that is quarantined, sends too much, leaves and comes back; checkpoints; DP-SGD "
        "against gradients by hand, layers that mix examples",
        (
            Mutation(  # The multiplier is then too small by the number of participants.
                "hetfed_lightning/privacy/private_mean.py",
                "* (noise_multiplier * max_norm)",
                "* (noise_multiplier * max_norm / participants)",
                (_PRIVATE,),
            ),
            Mutation(
                "hetfed_lightning/privacy/private_mean.py",
                "clipped = clip_updates(states, previous, max_norm, names)",
                "clipped = list(states)",
                (_PRIVATE,),
            ),
            Mutation(_AVERAGING, "participants=len(expected),", "participants=max(1, len(states)),", (_PRIVATE,)),
            Mutation(
                _AVERAGING,
                "            self._ledgers.setdefault(name, Ledger()).add(self.noise_multiplier)",
                "            self._ledgers.setdefault(name, Ledger()).add(self.noise_multiplier, name in senders)",
                (_PRIVATE,),
            ),
            Mutation(_AVERAGING, "check_settings(rule, weighting, buffers)", "", (_PRIVATE,)),
            Mutation(_AVERAGING, "check_company(trainer, self)", "", (_PRIVATE,)),
            Mutation(
                _AVERAGING,
                'federation.ranks.gathered(drawn, ["noise"])["noise"]',
                "private_noise(count)",
                ("tests/strategies/test_two_ranks.py::test_noise_is_drawn_once_for_all_ranks",),
            ),
            Mutation(
                "hetfed_lightning/privacy/dpsgd.py",
                "(max_norm * (1 - 1e-6) / norms).clamp(max=1.0).nan_to_num(1.0)",
                "torch.ones_like(norms)",
                (_EXAMPLES,),
            ),
            Mutation(
                "hetfed_lightning/privacy/dpsgd.py",
                "drawn * (noise_multiplier * max_norm)",
                "drawn * noise_multiplier",
                (_EXAMPLES,),
            ),
            Mutation(  # Batches of a shuffled pass are not what the account assumes.
                "hetfed_lightning/data/loaders.py",
                "if work.poisson:",
                "if False:",
                (_EXAMPLES,),
            ),
            Mutation("hetfed_lightning/federation.py", "        check_privacy(self)\n", "", (_EXAMPLES,)),
            Mutation("hetfed_lightning/federation.py", "        check_gradients(self)\n", "", (_EXAMPLES,)),
            Mutation(
                "hetfed_lightning/federation.py", "        take_up_accounts(self, self._saved)\n", "", (_EXAMPLES,)
            ),
            Mutation(
                "hetfed_lightning/fleets/kinship.py",
                "if participant.privacy is not None:",
                "if False:",
                (_EXAMPLES,),
            ),
            Mutation(_AVERAGING, 'ledgers_of(state_dict.get("releases", []))', "{}", (_PRIVATE,)),
            Mutation(  # One release is forgotten.
                "hetfed_lightning/privacy/accountant.py",
                "accountant.compose(event if probability == 1",
                "count = max(1, count - 1)\n        accountant.compose(event if probability == 1",
                ("tests/privacy/test_accountant.py",),
            ),
        ),
    ),
)
