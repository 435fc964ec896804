"""What is promised of runs: nothing is lost when something stops, breaks or fills up."""

from __future__ import annotations

from scripts.promises.promise import Mutation, Promise

PROMISES = (
    Promise(
        "resume",
        "a resumed run is the same run: the same bits, no batch twice or left out",
        "stops at every round and at 10 random batches of runs with momentum, Adam, schedulers, accumulation, "
        "sampling, distillation, a student, fleets; data in memory, read by the process, by two workers",
        (
            Mutation(
                "hetfed_lightning/federation/federation.py",
                "            self.fleets.take_seats(self)\n",
                "",
                ("tests/resume/test_matrix.py",),
            ),
            Mutation(
                "hetfed_lightning/data/loaders.py",
                "self.schedule.current_round, self.schedule.batches_done\n",
                "self.schedule.current_round, 0\n",
                ("tests/resume/test_matrix.py",),
            ),
            Mutation(
                "hetfed_lightning/federation/federation.py",
                "            self.round_state.load_state_dict("
                "self.ranks.resumed(saved), self.local, self.logbook, self.device)\n",
                "            pass\n",
                ("tests/resume/test_matrix.py",),
            ),
        ),
    ),
    Promise(
        "killed",
        "a save that is killed loses nothing",
        "kill -9 during saves at random times and within writes, and during fits; temporary files on the same "
        "filesystem and on another",
        (
            Mutation(
                "hetfed_lightning/checkpointing/atomic.py",
                "    temporary, file = _temporary(folder)\n",
                '    temporary, file = destination, destination.open("w+b", buffering=0)\n',
                ("tests/checkpointing/test_kills.py",),
            ),
            Mutation(
                "hetfed_lightning/checkpointing/atomic.py",
                "            os.fsync(file.fileno())\n",
                "",
                ("tests/checkpointing/test_atomic_files.py",),
            ),
            Mutation(
                "hetfed_lightning/checkpointing/atomic.py",
                "    _synchronise(folder)\n",
                "",
                ("tests/checkpointing/test_atomic_files.py",),
            ),
            Mutation(
                "hetfed_lightning/checkpointing/atomic.py",
                "    remove_leftovers(folder)\n",
                "",
                ("tests/checkpointing/test_kills.py", "tests/checkpointing/test_atomic_files.py"),
            ),
        ),
    ),
    Promise(
        "full",
        "a full disk costs a warning and no training; what was saved before stays",
        "a filesystem that fills up, a limit on file sizes, an error after any byte; one process and two",
        (
            Mutation(
                "hetfed_lightning/checkpointing/plugin.py",
                "            if not self._is_borne(error, file):\n",
                "            if True:\n",
                ("tests/checkpointing/test_full_disks.py",),
            ),
            Mutation(
                "hetfed_lightning/checkpointing/plugin.py",
                "        if self._failed is not None:\n",
                "        if False:\n",
                ("tests/checkpointing/test_full_disks.py",),
            ),
        ),
    ),
    Promise(
        "flip",
        "a flipped bit and a missing end are seen; training goes on from the newest intact file, by name",
        "1,000 random flips, half of them where the hash lies; cuts at 11 sizes; through fit, validate, test, predict "
        "and the command line",
        (
            Mutation(
                "hetfed_lightning/checkpointing/sealing.py",
                "        if _hash_of(file, size - HASH) != end[len(MARK) :]:\n",
                "        if False:\n",
                ("tests/checkpointing/test_seals.py",),
            ),
            Mutation(
                "hetfed_lightning/checkpointing/sealing.py",
                "        end[-END_LENGTH:].startswith(END) and end.endswith(NO_COMMENT)\n",
                "        True\n",
                ("tests/checkpointing/test_seals.py",),
            ),
            Mutation(
                "hetfed_lightning/checkpointing/plugin.py",
                "            for other in intact_files(file.parent, file):\n",
                "            for other in ():\n",
                ("tests/checkpointing/test_going_back.py",),
            ),
        ),
    ),
    Promise(
        "sigterm",
        "told to end (SIGTERM, SLURM's signal), a run saves at its next batch and ends with 143, or 128 and the signal",
        "signals at 10 random batches and at five other moments; one process, either of two, a program, the command "
        "line",
        (
            Mutation(
                "hetfed_lightning/federation/federation.py",
                "            self.preemption.look(self)\n",
                "            pass\n",
                ("tests/resume/test_signals.py",),
            ),
            Mutation(
                "hetfed_lightning/federation/preemption.py",
                "        raise SIGTERMException(128 + found)\n",
                "        raise SIGTERMException\n",
                ("tests/resume/test_signals.py",),
            ),
            Mutation(
                "hetfed_lightning/strategies/collectives.py",
                "        while stopping.place is None:\n",
                "        while False:\n",
                ("tests/resume/test_signals.py::test_all_ranks_stop_where_one_is_told",),
            ),
        ),
    ),
    Promise(
        "ranks",
        "a rank that is dead, raises or is stuck ends the others within seconds, which name it",
        "SIGKILL, an exception and SIGSTOP in either of two ranks",
        (
            Mutation(
                "hetfed_lightning/strategies/liveness.py",
                '                self._lose(rank, "is dead: its process has ended without a word")\n',
                "                pass\n",
                ("tests/strategies/test_faults.py",),
            ),
            Mutation(
                "hetfed_lightning/strategies/liveness.py",
                "        if self.verdict is None and not isinstance(error, RankLostError) and not together:\n",
                "        if False:\n",
                ("tests/strategies/test_faults.py",),
            ),
            Mutation(
                "hetfed_lightning/strategies/liveness.py",
                "not peer.gone and now - peer.heard > self.stuck_after:",
                "False:",
                ("tests/strategies/test_faults.py",),
            ),
        ),
    ),
    Promise(
        "flat",
        "memory, open files and log bytes a round do not grow",
        "rounds of 8 participants with distillation, averaging, validation, TensorBoard, record and checkpoint",
        (
            Mutation(
                "hetfed_lightning/logs/metric_store.py",
                "reduced = _reduced(self._entries)\n        self._entries.clear()",
                "reduced = _reduced(self._entries)",
                ("tests/logs/test_metric_store.py", "tests/test_soak.py"),
            ),
        ),
    ),
    Promise(
        "logs",
        "logs grow with rounds, not with steps: under 48 bytes a figure and round",
        "20 participants with one step a round, and with up to 88",
        (
            Mutation(
                "hetfed_lightning/federation/log_writer.py",
                'if on_step and stage == "train":',
                'if stage == "train":',
                ("tests/test_soak.py",),
            ),
        ),
    ),
)
