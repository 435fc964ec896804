"""What a coordinator writes of a run: TensorBoard events and a record, laid out as those of ``hetfed fit``."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hetfed_lightning import __version__, plots
from hetfed_lightning.callbacks.backbone_averaging import BackboneAveraging
from hetfed_lightning.callbacks.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.callbacks.headlines import LOSS, Headline, headline_summaries, loss_summaries, summary_figures
from hetfed_lightning.callbacks.monitor import SECONDS
from hetfed_lightning.callbacks.pages import MAX_PARTICIPANTS, configuration_page, participants_table, sharing_page
from hetfed_lightning.checkpointing.plugin import PASSING
from hetfed_lightning.cli import tables
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.flower.coordinator.round_summary import round_summary
from hetfed_lightning.flower.coordinator.site_summaries import headlines_of, label_counts_of, roles_of
from hetfed_lightning.flower.coordinator.tensorboard_writer import TensorBoardWriter
from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.ledger import tag
from hetfed_lightning.participant import STUDENT
from hetfed_lightning.records import FILE, Record, RecordError

log = logging.getLogger(__name__)

_NOT_RECORDED = re.compile(r"(lr(_\d+)?|quarantined)/")
"""Logged every round, but of no use to a report."""

_LABELS = "federation/label_distribution"


class Journal:
    """Tells how a federation between institutions fares. The coordinator has no models, only what sites say.

    Rounds are counted from 0 and logged as steps from 1, as those of a fit. A disk that is full, or fails, costs a
    warning: the events that it did not take are written with those of the next round. A run that goes on writes into
    the folder it wrote to before; what that has of rounds that are closed again is forgotten.

    Args:
        folder: Where to write.
        config: The coordinator's configuration as YAML.
        name: Of the run, for headings; a record of the same name, seed and arm in the folder is gone on with.
        seed: Of the run.
        rounds: How many are asked for.
        arm: Kind of training, where several are compared.
    """

    def __init__(
        self, folder: Path, *, config: str, name: str, seed: int, rounds: int, arm: str = "federation"
    ) -> None:
        self.folder = Path(folder)
        fresh = Record(name, __version__, config, arm, seed, rounds)
        found = _gone_on_with(self.folder, fresh)
        self._record, self._begins_anew = found or fresh, found is None
        # Pages of an earlier process that stand there.
        self._shown = {"config": configuration_page(self._record.config), _LABELS: dict(self._record.label_counts)}
        self._record.version, self._record.config, self._record.rounds = fresh.version, fresh.config, fresh.rounds
        self._record.finished = False
        self._writer: TensorBoardWriter | None = None
        self._has_written = False
        self._people: dict[str, Description] = {}
        self._callbacks: Sequence[FederatedCallback] = ()
        self._latest: dict[str, float] = {}

    # Before rounds

    def introduce(
        self, descriptions: Mapping[str, Description], callbacks: Sequence[FederatedCallback], first_round: int
    ) -> None:
        """Tell who takes part, what they share and what they have; again where others join.

        Args:
            descriptions: What sites told, by name: of all, or of newcomers alone.
            callbacks: Of the configuration, those that act between participants; they know their groups.
            first_round: The round that comes next; the one before may still have to be closed.

        Raises:
            OSError: If nothing can be written to the folder, for another reason than a full disk.
        """
        self._callbacks = callbacks
        self._people |= descriptions
        writer = self._opened(first_round)
        record = self._record
        roles = roles_of(self._people, callbacks, MAX_PARTICIPANTS)
        merged = record.participants | {name: role.row() for name, role in roles.items()}
        record.participants = {name: merged[name] for name in [*merged][:MAX_PARTICIPANTS]}
        record.total = len(record.participants.keys() | self._people.keys())
        record.label_counts |= label_counts_of(self._people, MAX_PARTICIPANTS)
        reports = [one.report for one in callbacks if isinstance(one, BackboneAveraging) and one.report]
        writer.page("federation/participants", participants_table(roles.values(), len(self._people)), first_round)
        writer.page("config", configuration_page(record.config) if record.config else "", first_round)
        writer.page("federation/sharing", sharing_page(reports), first_round)
        if record.label_counts:
            counts = dict(record.label_counts)
            writer.picture(_LABELS, counts, lambda: plots.label_distribution(counts), first_round)
        self._save(writer)

    def _opened(self, first_round: int) -> TensorBoardWriter:
        """Where to write, what an earlier process wrote of rounds that are made again being forgotten."""
        if self._writer is None:
            record = self._record
            if self._begins_anew or (first_round == 0 and record.history):
                _set_aside(self.folder / FILE)
            self._forget_from(first_round)
            if first_round == 0:
                record.participants, record.label_counts, record.agreement = {}, {}, {}
            for one in record.history:
                self._latest |= one["values"]
            shown = {} if self._begins_anew or first_round == 0 else self._shown
            self._writer = TensorBoardWriter(self.folder, first_round, self._latest, shown)
        return self._writer

    def _forget_from(self, round_index: int) -> None:
        record = self._record
        record.history = [one for one in record.history if one["round"] <= round_index]
        record.left_out = [one for one in record.left_out if one["round"] <= round_index]

    # Rounds

    def close_round(
        self,
        round_index: int,
        figures: Mapping[str, float],
        metrics: Mapping[str, float],
        left_out: Mapping[str, str],
        seconds: float,
    ) -> None:
        """Write down a round.

        Args:
            round_index: The round, from 0.
            figures: The federation's own by tag, such as ``"federation/bytes_up"``; those of them that are not here
                and can be told from the rest are added, and what is NaN is left out.
            metrics: The participants' by tag, such as ``"val_accuracy/hospital_a"``. Others than those who were
                introduced, and the student, are passed over.
            left_out: Who was left out of the round, and why.
            seconds: How long it took, validation not included.
        """
        writer = self._writer
        if writer is None:
            raise RuntimeError("Journal: expected introduce() before a round is closed.")
        self._forget_from(round_index)
        self._record.leave_out(round_index, left_out)
        own = self._of_participants(metrics)
        headlines = headlines_of(self._members())
        summaries = headline_summaries(headlines, "val", own)
        self._name_undefined(headlines, own)
        means, rest = summary_figures(loss_summaries(headlines, "val", own) | summaries, "val")
        expected = sum(one.is_member(round_index) for one in self._members().values())
        counted = {
            "federation/participants": float(max(0, expected - len(left_out))),
            "federation/quarantined": float(len(left_out)),
        }
        of_all = means | rest | counted | {key: float(value) for key, value in figures.items()}
        of_all = {key: value for key, value in of_all.items() if not math.isnan(value)}
        ever = {one["participant"] for one in self._record.left_out} | left_out.keys()
        flags = {tag("quarantined", name): float(name in left_out) for name in sorted(ever)}
        times = {} if math.isnan(seconds) else {SECONDS: float(seconds)}
        kept = {key: value for key, value in own.items() if not _NOT_RECORDED.match(key)}
        self._record.close_round(round_index, kept | of_all)
        self._latest |= kept
        writer.row(own | of_all | flags | times, round_index + 1, self._names())
        here = round(of_all["federation/participants"])
        line = round_summary(
            round_index, self._record.rounds, participants=here, asked=here + len(left_out),
            summaries=summaries, seconds=seconds,
        )  # fmt: skip
        log.info("%s", line)
        self._save(writer)

    def _name_undefined(self, headlines: Mapping[str, Headline], own: Mapping[str, float]) -> None:
        """Say once which sites' data do not define the metric that they are judged by; they send no figure of it."""
        for name, headline in headlines.items():
            for scope in ("", "global_"):
                figure = tag(f"val_{scope}{headline.metric}", name)
                if figure in own:
                    self._record.undefined.pop(figure, None)
                elif tag(f"val_{scope}{LOSS}", name) in own and figure not in self._record.undefined:
                    self._record.undefined[figure] = "its site sends none"
                    log.warning(
                        "%s is undefined on the validation data of site %r: left out of mean and worst.",
                        figure.partition("/")[0], name,
                    )  # fmt: skip

    def _of_participants(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Figures of those who are known; what belongs to all is not theirs to tell, nor who is left out."""
        known = {*self._names(), STUDENT}
        return {
            key: float(value)
            for key, value in metrics.items()
            if key.rpartition("/")[2] in known and not key.startswith(("federation/", "quarantined/"))
        }

    # The end

    def finish(self) -> None:
        """Write which teachers agreed in the last round that asked them, and that the run came to its end."""
        self._record.finished = True
        self._end()

    def fail(self, reason: str) -> None:
        """Write what there is; the record stays unfinished. Raises nothing, since another error is on its way.

        Args:
            reason: Why the run ends, in a sentence.
        """
        rounds, why = self._rounds_closed(), reason or "an error that says nothing, or a signal."
        log.error("The run ends after %d of %d rounds: %s", rounds, self._record.rounds, why)
        self._has_written = True
        self._end()

    def table(self) -> str:
        """Where everybody stands, as ``hetfed fit`` prints it at its end; empty if nobody was measured."""
        table = tables.participants_table(self._latest, [*self._names(), STUDENT], "val")
        return table.text() if table.rows else ""

    def _end(self) -> None:
        writer, record = self._writer, self._record
        if writer is None:
            return
        for callback in self._callbacks:
            if isinstance(callback, EnsembleDistillation) and callback.agreement is not None:
                names, matrix = callback.agreement
                record.note_agreement(names, matrix.tolist())
        if found := record.agreement:
            drawn = "federation/teacher_agreement_matrix"
            writer.picture(
                drawn, found, lambda: plots.teacher_agreement(found["names"], found["matrix"]), self._rounds_closed()
            )
        writer.settle()
        self._save(writer)

    # Where it goes

    def _members(self) -> dict[str, Description]:
        return {name: one for name, one in self._people.items() if name != STUDENT}

    def _names(self) -> list[str]:
        """Everyone who is or was here, in order."""
        return list(dict.fromkeys([*self._record.participants, *self._people]))

    def _rounds_closed(self) -> int:
        return int(self._record.history[-1]["round"]) if self._record.history else 0

    def _save(self, writer: TensorBoardWriter) -> None:
        with self._borne("TensorBoard's events"):
            writer.save()
        with self._borne("The record"):
            self._record.write(self.folder)
        self._has_written = True

    @contextmanager
    def _borne(self, what: str) -> Iterator[None]:
        """Bear a disk that is full or fails, and everything once the folder has been written to."""
        try:
            yield
        except OSError as error:
            if error.errno not in PASSING and not self._has_written:
                raise
            log.warning(
                "%s in %s could not be written: %s. The run goes on.", what, self.folder, error.strerror or error
            )


def _gone_on_with(folder: Path, fresh: Record) -> Record | None:
    """The record in a folder if it is one of the same run."""
    try:
        found = Record.read(folder)
    except RecordError as error:
        if (folder / FILE).exists():
            log.warning("%s", error)
        return None
    if (found.name, found.seed, found.arm) != (fresh.name, fresh.seed, fresh.arm):
        return None
    return found


def _set_aside(path: Path) -> None:
    """Make place for another record."""
    if path.exists():
        before = path.with_suffix(".before.json")
        log.warning("%s is of an earlier run: it is kept as %s.", path, before.name)
        with suppress(OSError):
            path.replace(before)
