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
                "hetfed_lightning/federation/quarantine.py",
                "            federation.quarantine(name, reason)\n",
                "            pass\n",
                ("tests/federation/test_non_finite.py",),
            ),
            Mutation(
                "hetfed_lightning/federation/quarantine.py",
                'federation.quarantine(name, "its loss is not finite")',
                "pass",
                ("tests/federation/test_non_finite.py",),
            ),
            Mutation(
                "hetfed_lightning/methods/distillation/ensemble_distillation.py",
                "return why_not_heard(message[OUTPUTS], kind)",
                "return ''",
                ("tests/federation/test_non_finite.py",),
            ),
            Mutation(
                "hetfed_lightning/federation/quarantine.py",
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
                "hetfed_lightning/federation/federation.py",
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
                "hetfed_lightning/methods/local_carrier.py",
                "            asked = [name for name in asked if federation.local[name].landed]\n",
                "",
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
                ("tests/aggregation/test_shares.py", "tests/methods/averaging/test_backbone_averaging.py"),
            ),
            Mutation(
                "hetfed_lightning/aggregation/shares.py",
                "if isinstance(claimed, bool) or not whole or int(claimed) < 0:",
                "if not whole:",
                ("tests/aggregation/test_shares.py",),
            ),
        ),
    ),
    Promise(
        "robust",
        "robust rules hold where attackers are fewer than they are set for",
        "2 of 10 attack (sign flip, also tenfold, update x100, Gaussian) median, trimmed mean, Multi-Krum, geometric "
        "median on 5 seeds: error below twice that of the honest ones' mean; digits, dealt evenly: accuracy within 2 "
        "points of that without attack",
        (
            Mutation(
                "hetfed_lightning/aggregation/coordinate_median.py",
                "return reduce_sorted(states, middle)",
                "return reduce_sorted(states, lambda ascending: ascending.mean(0))",
                ("tests/aggregation/test_robustness.py::test_two_attackers_of_ten_are_stood",),
            ),
            Mutation(
                "hetfed_lightning/aggregation/trimmed_mean.py",
                "dropped = self.dropped_per_side(len(states))",
                "dropped = 0",
                ("tests/aggregation/test_robustness.py::test_two_attackers_of_ten_are_stood",),
            ),
            Mutation(
                "hetfed_lightning/aggregation/multi_krum.py",
                "kept = sorted(self.ranking(states)[:count])",
                "kept = sorted(self.ranking(states)[-count:])",
                ("tests/aggregation/test_robustness.py::test_two_attackers_of_ten_are_stood",),
            ),
            Mutation(
                "hetfed_lightning/aggregation/geometric_median.py",
                "pull = 1 / distances.clamp(min=self.smoothing)",
                "pull = torch.ones_like(distances)",
                ("tests/aggregation/test_robustness.py::test_two_attackers_of_ten_are_stood",),
            ),
        ),
    ),
    Promise(
        "far",
        "robust rules see far outliers in high dimension",
        "among 7 participants of 1,000,000 weights one whose update is ten times as long: Krum ranks it last",
        (
            Mutation(
                "hetfed_lightning/aggregation/distances.py",
                'torch.cdist(block, block, compute_mode="donot_use_mm_for_euclid_dist")',
                'torch.cdist(block.float(), block.float(), compute_mode="use_mm_for_euclid_dist").double()',
                ("tests/aggregation/test_robustness.py::test_a_far_outlier_among_a_million_coordinates_is_the_last",),
            ),
        ),
    ),
    Promise(
        "teachers",
        "lying teachers do not mislead the student",
        "3 of 10 sure and wrong, one of these x1000, another right x1000: median, geometric median and trimmed mean of "
        "probabilities within 2 points of nobody lying; 3 sure and wrong, one x1000, another NaN: a student",
        (
            Mutation(
                "hetfed_lightning/distillation/median_probabilities.py",
                "return renormalise((ascending[(count - 1) // 2] + ascending[count // 2]) / 2, teachers.kind)",
                "return renormalise(ascending.mean(dim=0), teachers.kind)",
                ("tests/distillation/test_lying_teachers.py::test_an_ensemble_is_as_right_as_if_nobody_lied",),
            ),
            Mutation(
                "hetfed_lightning/distillation/geometric_median_probabilities.py",
                "return pull / pull.sum(dim=0)",
                "return torch.full_like(pull, 1 / len(pull))",
                ("tests/distillation/test_lying_teachers.py::test_an_ensemble_is_as_right_as_if_nobody_lied",),
            ),
            Mutation(
                "hetfed_lightning/distillation/trimmed_probabilities.py",
                "dropped = min(math.ceil(self.trim * count - 1e-9), (count - 1) // 2)",
                "dropped = 0",
                ("tests/distillation/test_lying_teachers.py::test_an_ensemble_is_as_right_as_if_nobody_lied",),
            ),
            Mutation(
                "hetfed_lightning/distillation/clipped_logits.py",
                "_median(length * largest) / length",
                "torch.full_like(length, torch.inf)",
                ("tests/distillation/test_lying_teachers.py::test_clipped_logits_hear_nobody_louder_than_others",),
            ),
        ),
    ),
    Promise(
        "broadcast",
        "nothing is broadcast silently",
        "nine shapes that would or nearly would be, from each of 6 participants to each rule; five of weights; four of "
        "logits beside (4, 1)",
        (
            Mutation(
                "hetfed_lightning/aggregation/state.py",
                "if tensor.shape != expected.shape:",
                "if tensor.ndim != expected.ndim:",
                ("tests/aggregation/test_robustness.py::test_nothing_is_broadcast",),
            ),
            Mutation(
                "hetfed_lightning/aggregation/state.py",
                "if tuple(weights.shape) != (len(who),):",
                "if weights.numel() not in (1, len(who)):",
                ("tests/aggregation/test_robustness.py::test_no_weights_are_broadcast",),
            ),
            Mutation(
                "hetfed_lightning/distillation/losses.py",
                "if student.shape != teacher.shape:",
                "if student.ndim != teacher.ndim:",
                ("tests/distillation/test_losses.py",),
            ),
        ),
    ),
    Promise(
        "counters",
        "counters stay integers",
        "integer tensors of three dtypes through every rule, 7 and 10, and 2^53 + 1, which has no float64",
        (
            Mutation(
                "hetfed_lightning/aggregation/state.py",
                "return torch.stack([tensor.detach() for tensor in tensors]).amax(dim=0)",
                "return torch.stack([tensor.detach() for tensor in tensors]).double().mean(dim=0).to(tensors[0].dtype)",
                ("tests/aggregation/test_robustness.py::test_counters_stay_integers",),
            ),
        ),
    ),
)
