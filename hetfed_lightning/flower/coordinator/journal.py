"""The journal of a coordinator: TensorBoard events and a record of the run, laid out as those of ``hetfed fit``."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hetfed_lightning.callbacks.headline_metrics import (
    LOSS,
    Headline,
    federation_figures,
    headline_summaries,
)
from hetfed_lightning.callbacks.monitor import SECONDS
from hetfed_lightning.callbacks.run_pages import CONFIG, LABELS, agreement_of, introduce, show_agreement
from hetfed_lightning.callbacks.tensorboard_pages import MAX_PARTICIPANTS, configuration_page
from hetfed_lightning.checkpointing.plugin import PASSING
from hetfed_lightning.cli import tables
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.flower.coordinator.round_summary import round_summary
from hetfed_lightning.flower.coordinator.site_summaries import headlines_of, label_counts_of, roles_of
from hetfed_lightning.flower.coordinator.tensorboard_writer import TensorBoardWriter
from hetfed_lightning.flower.protocol.description import Description
from hetfed_lightning.logs.metric_store import QUARANTINED, quarantine_flags, tag
from hetfed_lightning.logs.run_record import FILE, Record, RecordError
from hetfed_lightning.participants.participant import STUDENT
from hetfed_lightning.version import __version__

log = logging.getLogger(__name__)

_NOT_RECORDED = re.compile(rf"(lr(_\d+)?|{QUARANTINED})/")
"""Tags that are logged every round but are of no use to a report."""


class Journal:
    """Journal of a federation between institutions. The coordinator has no models, so all entries come from sites.

    Rounds are counted from 0 and logged as steps from 1, as those of a fit. A full or failing disk costs a warning:
    events that could not be written follow with those of the next round. A resumed run writes into its former folder;
    entries there of rounds that are closed again are dropped.

    Args:
        folder: Folder to write to.
        config: The coordinator's configuration as YAML.
        name: Name of the run, for headings; a record in the folder with the same name, seed and arm is continued.
        seed: Seed of the run.
        rounds: Number of rounds.
        arm: Kind of training, if several are compared.
    """

    def __init__(
        self, folder: Path, *, config: str, name: str, seed: int, rounds: int, arm: str = "federation"
    ) -> None:
        self.folder = Path(folder)
        fresh = Record(name, __version__, config, arm, seed, rounds)
        found = _gone_on_with(self.folder, fresh)
        self._record, self._begins_anew = found or fresh, found is None
        # Pages that an earlier process has written.
        self._shown = {CONFIG: configuration_page(self._record.config), LABELS: dict(self._record.label_counts)}
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
        """Write the participants, their sharing and their data; called again when others join.

        Args:
            descriptions: Descriptions of all sites, or of newcomers alone, by name.
            callbacks: Callbacks of the configuration that act between participants, with their groups.
            first_round: The round that comes next; the one before may still have to be closed.

        Raises:
            OSError: If the folder cannot be written to, for another reason than a full disk.
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
        introduce(
            writer, roles.values(), len(self._people),
            config=record.config, callbacks=callbacks, label_counts=dict(record.label_counts), step=first_round,
        )  # fmt: skip
        self._save(writer)

    def _opened(self, first_round: int) -> TensorBoardWriter:
        """Writer of TensorBoard events, made once; entries of rounds that are repeated are dropped."""
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
        """Write a round.

        Args:
            round_index: The round, from 0.
            figures: The federation's own values by tag, such as ``"federation/bytes_up"``. Missing ones that follow
                from the rest are added; NaN is left out.
            metrics: The participants' values by tag, such as ``"val_accuracy/hospital_a"``. Those of names that were
                not introduced, the student apart, are ignored.
            left_out: Participants left out of the round, with the reason.
            seconds: Duration of the round, validation not included.
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
        means, rest = federation_figures(headlines, "val", own, self._callbacks)
        expected = sum(one.is_member(round_index) for one in self._members().values())
        counted = {
            "federation/participants": float(max(0, expected - len(left_out))),
            "federation/quarantined": float(len(left_out)),
        }
        of_all = means | rest | counted | {key: float(value) for key, value in figures.items()}
        of_all = {key: value for key, value in of_all.items() if not math.isnan(value)}
        flags = quarantine_flags([one["participant"] for one in self._record.left_out], left_out)
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
        """Warn, once each, of sites whose data do not define their headline metric, so that they send no value."""
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
        """Metrics of known participants, without those of the whole federation and of quarantine."""
        known = {*self._names(), STUDENT}
        return {
            key: float(value)
            for key, value in metrics.items()
            if key.rpartition("/")[2] in known and not key.startswith(("federation/", f"{QUARANTINED}/"))
        }

    # The end

    def finish(self) -> None:
        """Write the teachers' agreement in the last round that had any, and that the run is complete."""
        self._record.finished = True
        self._end()

    def fail(self, reason: str) -> None:
        """Write all entries so far; the record stays unfinished. Raises nothing, since another error is on its way.

        Args:
            reason: Reason why the run ends, in a sentence.
        """
        rounds, why = self._rounds_closed(), reason or "an error that says nothing, or a signal."
        log.error("The run ends after %d of %d rounds: %s", rounds, self._record.rounds, why)
        self._has_written = True
        self._end()

    def table(self) -> str:
        """Table of the latest metrics, as ``hetfed fit`` prints it at its end; empty without any."""
        table = tables.participants_table(self._latest, [*self._names(), STUDENT], "val")
        return table.text() if table.rows else ""

    def _end(self) -> None:
        writer, record = self._writer, self._record
        if writer is None:
            return
        record.agreement = agreement_of(self._callbacks) or record.agreement
        show_agreement(writer, record.agreement, self._rounds_closed())
        writer.settle()
        self._save(writer)

    # Writing

    def _members(self) -> dict[str, Description]:
        return {name: one for name, one in self._people.items() if name != STUDENT}

    def _names(self) -> list[str]:
        """Names of all present and former participants, in order."""
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
        """Context that turns a full or failing disk, or any error once the folder was written to, into a warning."""
        try:
            yield
        except OSError as error:
            if error.errno not in PASSING and not self._has_written:
                raise
            log.warning(
                "%s in %s could not be written: %s. The run goes on.", what, self.folder, error.strerror or error
            )


def _gone_on_with(folder: Path, fresh: Record) -> Record | None:
    """Record in a folder if it is one of the same run; else None."""
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
    """Rename an earlier run's record."""
    if path.exists():
        before = path.with_suffix(".before.json")
        log.warning("%s is of an earlier run: it is kept as %s.", path, before.name)
        with suppress(OSError):
            path.replace(before)
