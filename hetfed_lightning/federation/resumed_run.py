"""Run that a checkpoint is read for: its content by the moment at which it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hetfed_lightning.checkpointing.age import new_run
from hetfed_lightning.federation.lightning_progress import check_loops, resume_where_it_stood, settle_validation
from hetfed_lightning.federation.log_writer import is_fitting
from hetfed_lightning.federation.preflight_privacy import take_up_accounts
from hetfed_lightning.federation.resume import check_architectures, check_optimizers, restore_by_name
from hetfed_lightning.local_training.scales import give_scales
from hetfed_lightning.methods.own_modules import fit_checkpoint

if TYPE_CHECKING:
    import lightning as L

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.fleets import EngineName
    from hetfed_lightning.local_training.local_optimization import LocalOptimization


def fit_to_participants(checkpoint: dict[str, Any], federation: FederationView) -> None:
    """Bring a checkpoint into the participants' order, before its weights are loaded.

    Args:
        checkpoint: Checkpoint of a federation; changed in place.
        federation: Federation that loads it, in a run or without one.

    Raises:
        ValueError: If it is of another federation, or of other architectures.
    """
    restore_by_name(checkpoint, list(federation.everyone()))
    fit_checkpoint(checkpoint["state_dict"], federation)
    check_architectures(checkpoint, federation)


class ResumedRun:
    """Content of the checkpoint that a federation was restored from; empty without one.

    Lightning reads a checkpoint before there are optimizers, and decides how to go on before there are loaders. The
    moments of a fit, in order: :meth:`read`, :meth:`take_up_optimizers`, :meth:`take_up_accounts`,
    :meth:`settle`, :meth:`round_saved` as a round opens and ends, :meth:`end`.

    Attributes:
        run: Name and begin of the run, which it keeps when it is resumed.
        is_before_validation: True from :meth:`read` until the first step or validation, if the checkpoint was made
            between a batch and the validation due after it.
    """

    def __init__(self) -> None:
        self.run: dict[str, Any] = new_run()
        self.is_before_validation = False
        self._saved: dict[str, Any] = {}
        self._optimizers: Sequence[Mapping[str, Any]] = []
        self._closed = 0

    def read(self, checkpoint: dict[str, Any], federation: FederationView, trainer: L.Trainer | None) -> None:
        """Keep what later moments use of a checkpoint, and let Lightning go on where it was made.

        Args:
            checkpoint: Checkpoint that :func:`fit_to_participants` has checked; changed in place.
            federation: Federation that loads it.
            trainer: Trainer of the run; None where it is loaded without one.

        Raises:
            ValueError: If progress of the run is missing.
        """
        if trainer is not None and is_fitting(trainer):
            check_loops(checkpoint, trainer)
            self._optimizers = checkpoint.get("optimizer_states", [])
            self.is_before_validation = resume_where_it_stood(checkpoint, trainer)
        saved = self._saved = checkpoint["federation"]
        self._closed = _closed(checkpoint)
        self.run = dict(saved.get("run", self.run))  # Older checkpoints have none.
        for name, part in saved.get("own", {}).items():  # Older checkpoints have none.
            federation[name].on_load_checkpoint(part)
        self._count_steps(federation.local)

    def take_up_optimizers(self, local: Mapping[str, LocalOptimization]) -> None:
        """Check new optimizers against the saved states, and continue the participants' counts of steps.

        Args:
            local: Optimizers by participant, as they were just made.

        Raises:
            ValueError: If groups of parameters differ in size.
        """
        check_optimizers(self._optimizers, local)
        self._count_steps(local)

    def _count_steps(self, local: Mapping[str, LocalOptimization]) -> None:
        for name, steps in self._saved.get("steps", {}).items():
            if name in local:
                local[name].go_on_from(steps)

    def take_up_accounts(self, federation: FederationView) -> None:
        """Continue privacy accounts and loss scales, once the participants have both.

        Args:
            federation: Federation in a fit that is about to train.

        Raises:
            ValueError: If steps of a participant with privacy were made without it.
        """
        take_up_accounts(federation, self._saved)
        give_scales(federation.local, federation.trainer.precision_plugin, self._saved.get("scales", {}))
        self._optimizers = []

    def settle(self, trainer: L.Trainer) -> None:
        """Undo the changes of :meth:`read` to Lightning's counters, once Lightning has decided how to go on."""
        if self.is_before_validation:
            settle_validation(trainer)

    def pass_validation(self) -> None:
        """Go on with the validation as with any other."""
        self.is_before_validation = False

    @property
    def has_read(self) -> bool:
        """True if a checkpoint has been read and is not forgotten yet."""
        return bool(self._saved)

    @property
    def engines(self) -> Mapping[str, EngineName]:
        """Engine of each kind of participant, by the kind's signature."""
        found: Mapping[str, EngineName] = self._saved.get("engines", {})  # Older checkpoints have none.
        return found

    @property
    def scheduled_rounds(self) -> int:
        """Number of rounds that schedulers had counted."""
        return int(self._saved["scheduled_rounds"])

    def rounds_done(self, otherwise: int) -> int:
        """Number of rounds that the checkpoint was made in or after, the one in progress counted.

        A site closes rounds that it never opened.

        Args:
            otherwise: Result without a checkpoint.
        """
        return max(int(self._saved["in_progress"]["round"]) + 1, self._closed) if self._saved else otherwise

    def round_saved(self, round_index: int) -> Mapping[str, Any]:
        """Saved state of a round; empty if the checkpoint was made in another one, or there is none."""
        saved: Mapping[str, Any] = self._saved.get("in_progress", {})
        return saved if saved.get("round") == round_index else {}

    @property
    def metrics(self) -> dict[str, Any]:
        """Values logged before the checkpoint, by tag."""
        found: dict[str, Any] = self._saved.get("metrics", {})
        return found

    def end(self) -> None:
        """Forget the checkpoint at the end of the first round after it."""
        self._saved = {}


def _closed(checkpoint: Mapping[str, Any]) -> int:
    """Number of rounds that Lightning has counted; 0 where a checkpoint has no such count, which others refuse."""
    found: Any = checkpoint
    for key in ("loops", "fit_loop", "epoch_progress", "current", "processed"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, int) else 0
