"""Lightning's hooks forwarded to participants, since the Trainer calls those of the federation alone.

Hooks of a round's epoch and batches are called by the round, those of evaluated batches in ``evaluation``. The others
are forwarded here, or refused by name before training if a federation has no moment for them: an override that is never
called is a silent fault.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import lightning as L

if TYPE_CHECKING:
    from hetfed_lightning.participants.participant import Participant

_BY_HAND = "set automatic_optimization = False and step in training_step"
_MODES = "every module returns to the mode it was in; set modes before training or in on_train_epoch_start"
_TRANSFORM = "use Participant(transform=...) or on_after_batch_transfer"

NEVER_CALLED: Mapping[str, str] = {
    "configure_callbacks": "give callbacks to the Trainer",
    "configure_gradient_clipping": "use Participant(gradient_clip_val=...) or on_before_optimizer_step",
    "configure_model": "make the layers in the constructor",
    "lr_scheduler_step": _BY_HAND,
    "on_before_batch_transfer": _TRANSFORM,
    "on_predict_model_eval": _MODES,
    "on_test_model_eval": _MODES,
    "on_test_model_train": _MODES,
    "on_validation_model_eval": _MODES,
    "on_validation_model_train": _MODES,
    "on_validation_model_zero_grad": "its gradients are cleared after each step, or kept where they accumulate",
    "optimizer_step": _BY_HAND,
    "optimizer_zero_grad": _BY_HAND,
    "transfer_batch_to_device": _TRANSFORM,
}
"""Alternative by name of each LightningModule hook that a participant cannot override.

Loaders are not among them: Lightning itself ignores a module's loaders if there is a data module.
"""


def check_hooks(participants: Mapping[str, Participant]) -> None:
    """Refuse participants that override a hook which a federation never calls.

    Raises:
        ValueError: If there is one; names the participant, the hook and the alternative.
    """
    for name, participant in participants.items():
        for hook, instead in NEVER_CALLED.items():
            found = getattr(getattr(participant, hook), "__func__", None)
            if found is not getattr(L.LightningModule, hook):
                raise ValueError(
                    f"Participant {name!r}: {type(participant).__name__}.{hook} would never be called in a federation; "
                    f"{instead}."
                )


class HandsOnHooks(L.LightningModule):
    """LightningModule that forwards its hooks to its participants."""

    @abstractmethod
    def everyone(self) -> dict[str, Participant]:
        """Participants by name, with the student."""

    @abstractmethod
    def __getitem__(self, name: str) -> Participant:
        """Participant of a name."""

    @abstractmethod
    def measured_here(self) -> list[str]:
        """Names of the participants that this process evaluates."""

    def hand_on(self, hook: str, *args: Any, names: Sequence[str] | None = None) -> None:
        """Call a hook of the participants that override it, in their order.

        Args:
            hook: Name of the hook.
            args: Arguments of the hook.
            names: Names of the participants; all if None.
        """
        idle, kinds = getattr(L.LightningModule, hook), dict[type, bool]()
        for participant in self.everyone().values() if names is None else map(self.__getitem__, names):
            kind = type(participant)
            if kind not in kinds:
                kinds[kind] = getattr(kind, hook) is idle
            if not kinds[kind] or hook in vars(participant):
                cast("Callable[..., None]", getattr(participant, hook))(*args)

    def prepare_data(self) -> None:
        """Call ``prepare_data`` of the participants that override it."""
        self.hand_on("prepare_data")

    def setup(self, stage: str) -> None:
        """Call ``setup`` of the participants that override it."""
        self.hand_on("setup", stage)

    def teardown(self, stage: str) -> None:
        """Call ``teardown`` of the participants that override it."""
        self.hand_on("teardown", stage)

    def on_fit_start(self) -> None:
        """Call ``on_fit_start`` of the participants that override it."""
        self.hand_on("on_fit_start")

    def on_fit_end(self) -> None:
        """Call ``on_fit_end`` of the participants that override it."""
        self.hand_on("on_fit_end")

    def on_train_start(self) -> None:
        """Call ``on_train_start`` of the participants that override it."""
        self.hand_on("on_train_start")

    def on_train_end(self) -> None:
        """Call ``on_train_end`` of the participants that override it."""
        self.hand_on("on_train_end")

    def on_validation_start(self) -> None:
        """Call ``on_validation_start`` of the participants evaluated here that override it."""
        self.hand_on("on_validation_start", names=self.measured_here())

    def on_validation_epoch_start(self) -> None:
        """Call ``on_validation_epoch_start`` of the participants evaluated here that override it."""
        self.hand_on("on_validation_epoch_start", names=self.measured_here())

    def on_validation_epoch_end(self) -> None:
        """Call ``on_validation_epoch_end`` of the participants evaluated here that override it."""
        self.hand_on("on_validation_epoch_end", names=self.measured_here())

    def on_validation_end(self) -> None:
        """Call ``on_validation_end`` of the participants evaluated here that override it."""
        self.hand_on("on_validation_end", names=self.measured_here())

    def on_test_start(self) -> None:
        """Call ``on_test_start`` of the participants evaluated here that override it."""
        self.hand_on("on_test_start", names=self.measured_here())

    def on_test_epoch_start(self) -> None:
        """Call ``on_test_epoch_start`` of the participants evaluated here that override it."""
        self.hand_on("on_test_epoch_start", names=self.measured_here())

    def on_test_epoch_end(self) -> None:
        """Call ``on_test_epoch_end`` of the participants evaluated here that override it."""
        self.hand_on("on_test_epoch_end", names=self.measured_here())

    def on_test_end(self) -> None:
        """Call ``on_test_end`` of the participants evaluated here that override it."""
        self.hand_on("on_test_end", names=self.measured_here())

    def on_predict_start(self) -> None:
        """Call ``on_predict_start`` of the participants that override it."""
        self.hand_on("on_predict_start")

    def on_predict_epoch_start(self) -> None:
        """Call ``on_predict_epoch_start`` of the participants that override it."""
        self.hand_on("on_predict_epoch_start")

    def on_predict_epoch_end(self) -> None:
        """Call ``on_predict_epoch_end`` of the participants that override it."""
        self.hand_on("on_predict_epoch_end")

    def on_predict_end(self) -> None:
        """Call ``on_predict_end`` of the participants that override it."""
        self.hand_on("on_predict_end")
