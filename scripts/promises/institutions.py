"""What is promised between institutions: the same numbers, nothing else travels, faults stay where they are."""

from __future__ import annotations

from scripts.promises.promise import Mutation, Promise

_PARITY = "tests/flower/test_parity.py::test_states_and_figures_are_those_of_one_fit"
_FAULT = "tests/flower/test_failures.py::test_a_fault_costs_the_site_one_round"
_COORDINATOR = "hetfed_lightning/flower/coordinator/coordinator.py"
_CHECKS = "hetfed_lightning/flower/protocol/reply_checks.py"
_ORDER_CHECKS = "hetfed_lightning/flower/site/order_checks.py"
_METHOD_CHECKS = "hetfed_lightning/flower/site/method_checks.py"
_SITE = "hetfed_lightning/flower/site/site.py"
_ACCOUNT = "tests/flower/test_account_file.py"
_LIES = "tests/flower/test_coordinators_that_lie.py"

PROMISES: tuple[Promise, ...] = (
    Promise(
        "parity",
        "a federation between institutions has the numbers of one process: states to the bit, figures within 1e-6",
        "averaging, mixed and phase distillation, a student, sampling, newcomers, leaving, schedules, momentum, "
        "private averages; six shipped configurations, three rounds",
        (
            Mutation(
                "hetfed_lightning/flower/site/site.py",
                "                federation.begin_schedules(round_index)\n",
                "                pass\n",
                (f"{_PARITY}[joins later, schedule]",),
            ),
            Mutation(
                "hetfed_lightning/flower/site/site_round.py",
                " and method.is_due(round_index):\n",
                ":\n",
                (f"{_PARITY}[averaging, everything else]",),
            ),
            Mutation(
                _COORDINATOR,
                "            method.note_scores(headlines, self._metrics)\n",
                "            pass\n",
                (f"{_PARITY}[phase]",),
            ),
        ),
    ),
    Promise(
        "travels",
        "nothing leaves a site but what it shares, its answers to the public set, its figures and its counts",
        "every message of a run looked at: records, keys, shapes; damaged and foreign records refused by name; a "
        "coordinator that asks for heads or sends them, or states and targets of another dtype, shape or magnitude, "
        "or names rounds of 10^6 to 2^62",
        (
            Mutation(
                _METHOD_CHECKS,
                "        if fault := _fault_of_keys(method, keys, participant):\n",
                '        if fault := "":\n',
                (f"{_LIES}::test_it_is_refused",),
            ),
            Mutation(
                _METHOD_CHECKS,
                "        if found.shape != here.shape or not torch.can_cast(found.dtype, here.dtype):\n",
                "        if False:\n",
                (f"{_LIES}::test_it_is_refused",),
            ),
            Mutation(
                _ORDER_CHECKS,
                "        if found is None or 0 <= found < most:\n",
                "        if True:\n",
                (f"{_LIES}::test_it_is_refused",),
            ),
            Mutation(
                "hetfed_lightning/flower/site/site_carrier.py",
                "participant.state_of(self._order.messages[self._place])",
                "participant.state_of(participant.state_dict())",
                ("tests/flower/test_messages.py::test_nothing_else_travels",),
            ),
            Mutation(
                "hetfed_lightning/flower/protocol/description.py",
                "if weighs and name != STUDENT else None\n",
                "if name != STUDENT else None\n",
                ("tests/flower/test_messages.py::test_class_counts_are_told_only_where_an_ensemble_weighs_by_them",),
            ),
        ),
    ),
    Promise(
        "learned",
        "a coordinator cannot delete what a site has learned, nor keep it busy without end",
        "orders to begin again after three rounds, one back, far ahead and back; the same orders over and over; runs "
        "without number",
        (
            Mutation(
                "hetfed_lightning/flower/site/site_store.py",
                "        if not self._holds_more(later):\n",
                "        if True:\n",
                (f"{_LIES}::test_no_order_deletes_what_was_learned",),
            ),
            Mutation(
                "hetfed_lightning/flower/site/site_store.py",
                "            if other < place and other != base and",
                "            if other < place and",
                (f"{_LIES}::test_no_order_deletes_what_was_learned[far ahead, then back]",),
            ),
            Mutation(
                "hetfed_lightning/flower/site/site_store.py",
                "        if (count := self._repeats()) >= most:\n",
                "        if (count := 0) >= most:\n",
                (f"{_LIES}::test_orders_that_lead_nowhere_are_counted",),
            ),
        ),
    ),
    Promise(
        "account",
        "what a site has spent of its examples' privacy is counted, whatever is asked of it, and never goes back",
        "the same round asked again, in other words and in other runs; kills before, between and after the account and "
        "the state; a killed coordinator; an account that is missing, cut, altered, reordered, another's, or an older "
        "copy; a budget over two runs",
        (
            Mutation(
                _SITE,
                "                note = partial(account.note, order.run, end.round_index, new)\n",
                "                pass\n",
                (f"{_ACCOUNT}::test_any_other_order_counts",),
            ),
            Mutation(
                _SITE,
                "        if not fingerprint or end not in store.places():\n",
                "        if True:\n",
                (f"{_ACCOUNT}::test_the_same_order_has_the_same_reply_and_costs_nothing",),
            ),
            Mutation(
                _SITE,
                "                account.take_up(federation[self._name])\n",
                "                pass\n",
                (f"{_ACCOUNT}::test_epsilon_is_that_of_all_runs",),
            ),
            Mutation(
                "hetfed_lightning/flower/site/site_store.py",
                '            if match["mark"] not in noted:',
                "            if True:",
                (f"{_ACCOUNT}::test_killed_between_the_account_and_the_state_the_state_is_taken_up",),
            ),
            Mutation(
                "hetfed_lightning/flower/site/account_file.py",
                "        if len(self._lines) < count:\n",
                "        if False:\n",
                (f"{_ACCOUNT}::test_nothing_is_trained_without_a_reliable_account",),
            ),
            Mutation(
                "hetfed_lightning/flower/site/account_file.py",
                "        if more := participant.ledger.since(self.ledger).releases:\n",
                "        if more := 0:\n",
                (f"{_ACCOUNT}::test_an_older_copy_of_the_account_is_told_by_the_states",),
            ),
            Mutation(
                "hetfed_lightning/flower/site/site_round.py",
                "            super().allow(federation, round_index, batch_idx)\n",
                "            pass\n",
                (f"{_ACCOUNT}::test_a_budget_holds_over_runs_and_leaves_the_site_out_by_name",),
            ),
        ),
    ),
    Promise(
        "sites",
        "a site that fails costs itself one round, by name; too few end the run in time; who does not fit is told "
        "before training",
        "errors, silence beyond the deadline, NaN, keys, shapes, dtypes, sizes, names and figures of others, "
        "answers; a public set, a version, an architecture that differ; nodes that claim to be others",
        (
            Mutation(
                _CHECKS,
                "        or _of_messages(reply, order, description.kind, parameters, methods)\n",
                "",
                (_FAULT,),
            ),
            Mutation(
                _CHECKS,
                "    if reply.samples != description.samples:\n",
                "    if False:\n",
                (_FAULT,),
            ),
            Mutation(
                _CHECKS,
                "        if owner != reply.participant:\n",
                "        if False:\n",
                (_FAULT,),
            ),
            Mutation(
                "hetfed_lightning/flower/coordinator/requests.py",
                "if now - self._began >= self._deadline:",
                "if now - self._began >= 9 * self._deadline:",
                ("tests/flower/test_failures.py::test_a_deadline_is_kept",),
            ),
            Mutation(
                "hetfed_lightning/flower/coordinator/connected_sites.py",
                "        if registered and registered != name:\n",
                "        if False:\n",
                ("tests/flower/test_failures.py::test_a_node_that_claims_to_be_another",),
            ),
            Mutation(
                _COORDINATOR,
                "            refuse_disagreements(found)\n        elif found:\n",
                "            pass\n        elif found:\n",
                ("tests/flower/test_failures.py::test_sites_that_do_not_fit_end_the_run_before_training",),
            ),
        ),
    ),
    Promise(
        "words",
        "the other side's words are words: what cannot be read costs its site the round, by name; nothing is allocated "
        "that is only declared; no text reaches a log, a table, a record or a page but on one short, printable line",
        "arrays of ten million million numbers, of 5,000 digits, of code, of pickles; line breaks, escape sequences, "
        "halves of pairs, 5 MB; any text (hypothesis); 2,400 mutated replies, descriptions and messages",
        (
            Mutation(
                "hetfed_lightning/flower/protocol/arrays.py",
                "    if taken != there:\n",
                "    if False:\n",
                (
                    "tests/flower/test_arrays.py::test_a_lie_is_refused_and_allocates_nothing",
                    "tests/flower/test_fuzzed_words.py::test_replies",
                ),
            ),
            Mutation(
                "hetfed_lightning/flower/protocol/inflating.py",
                "        if size > left:\n",
                "        if False:\n",
                ("tests/flower/test_fuzzed_words.py::test_a_piece_that_is_named_again_and_again_is_not_put_together",),
            ),
            Mutation(
                "hetfed_lightning/finite.py",
                "        if key in parameters and (found := largest_number([tensor])) > LARGEST:\n",
                "        if (found := 0.0):\n",
                ("tests/flower/test_site_words.py::test_who_ruins_a_round_is_the_one_who_is_named",),
            ),
            Mutation(
                "hetfed_lightning/flower/coordinator/messenger.py",
                "    except Exception as error:",
                "    except ZeroDivisionError as error:",
                ("tests/flower/test_failures.py::test_whatever_a_reply_ends_with_is_its_sites_fault",),
            ),
            Mutation(
                "hetfed_lightning/flower/protocol/plain_data.py",
                "            if expected := limit.fault(read):\n",
                "            if expected := limit.fault(read) and '':\n",
                ("tests/flower/test_site_words.py::test_what_a_description_may_not_say",),
            ),
            Mutation(
                "hetfed_lightning/flower/protocol/untrusted.py",
                "    return character.isprintable() and character not in _MARKUP\n",
                "    return True\n",
                ("tests/flower/test_untrusted.py::test_any_text_becomes_a_line",),
            ),
        ),
    ),
    Promise(
        "restarts",
        "a site or a coordinator that is killed goes on where it was: no head is lost, at most one round is made again",
        "kills at messages of every kind, with averaging, mixed and phase distillation; flipped bits in states; real "
        "processes killed",
        (
            Mutation(
                _COORDINATOR,
                "        self.next_round = round_index + 1\n        self._save()\n",
                "        self.next_round = round_index + 1\n",
                ("tests/flower/test_restarts.py::test_a_killed_coordinator_goes_on",),
            ),
            Mutation(
                "hetfed_lightning/flower/site/site_store.py",
                "                if match and is_sealed(path):\n",
                "                if match:\n",
                ("tests/flower/test_restarts.py::test_a_damaged_state_is_as_if_it_were_not_there",),
            ),
        ),
    ),
    Promise(
        "operator",
        "only the operator operates the coordinator, and no app is run but the installed one",
        "another user of the same machine, another machine with the secret, secrets that are cut, long, doubled or "
        "empty, on every interface beside the sites'; an app of somebody else's; command lines, variables and modes",
        (
            Mutation(
                "hetfed_lightning/flower/engine/guard.py",
                '        elif not shows(scope["headers"], self._secret):\n',
                "        elif False:\n",
                ("tests/flower/test_operators.py",),
            ),
            Mutation(
                "hetfed_lightning/flower/engine/tasks.py",
                'run_with_grid(grid, context, "", loaded_server_app=app)',
                'run_with_grid(grid, context, "", server_app_attr="submitted:app")',
                (
                    "tests/flower/test_operators.py::test_whatever_is_submitted_the_installed_app_leads_with_the_submitted_settings",
                ),
            ),
        ),
    ),
    Promise(
        "strangers",
        "a stranger cannot exhaust the coordinator, nor can a site beyond its answers; sites are served meanwhile",
        "bodies unfinished, of unknown length, too long, unsigned, byte by byte; silence before and after TLS; answers "
        "that nobody fetches; crowds of one address and of many; orders and answers in another's name; forged lines",
        (
            Mutation(
                "hetfed_lightning/flower/engine/guard.py",
                'if len(lengths) > 1 or any(name == b"transfer-encoding" for name, _ in headers):',
                "if len(lengths) > 1:",
                ("tests/flower/test_strangers.py::test_a_body_of_unknown_length_is_refused_at_once",),
            ),
            Mutation(
                "hetfed_lightning/flower/engine/guard.py",
                "            if signer is None:\n",
                "            if False:\n",
                ("tests/flower/test_strangers.py::test_a_body_is_read_as_far_as_it_is_due",),
            ),
            Mutation(
                "hetfed_lightning/flower/engine/serving.py",
                "        self._connections.sweep()\n",
                "",
                ("tests/flower/test_strangers.py::test_who_says_nothing_is_dropped_and_sites_are_served",),
            ),
            Mutation(
                "hetfed_lightning/flower/engine/connections.py",
                "            self.drop(next(iter(mine)))\n",
                "            pass\n",
                ("tests/flower/test_strangers.py::test_the_oldest_of_an_address_makes_room",),
            ),
            Mutation(
                "hetfed_lightning/flower/engine/sites_interface.py",
                "if told.src_node_id != site or not told.reply_to_message_id:",
                "if False:",
                ("tests/flower/test_sites_interface.py::test_a_site_answers_in_its_own_name_and_orders_nobody",),
            ),
        ),
    ),
    Promise(
        "identities",
        "no stranger is let in, and nothing calls out: real processes, TLS and keys",
        "an unregistered key, no key, another authority at the site and at the server, an expired certificate, a key "
        "used twice, plain text; a network namespace with loopback alone",
        (
            Mutation(
                "hetfed_lightning/flower/engine/superlink_process.py",
                ' "--enable-supernode-auth",',
                "",
                ("tests/flower/test_identities.py",),
            ),
        ),
    ),
)
