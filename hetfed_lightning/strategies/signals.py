"""SIGTERM without collectives: each rank ends for itself, and the watch tells the others.

Lightning 2.6 asks rank 0 before every batch whether it was told to stop, and again inside the signal's handler. The
first is traffic inside a round; the second waits for ever on a rank that alone was told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import lightning as L


def each_rank_for_itself(trainer: L.Trainer) -> None:
    """Make a rank that receives SIGTERM stop after its batch, and pass the signal to the processes it launched."""
    connector: Any = trainer._signal_connector

    def stop(signum: int, frame: Any) -> None:
        del frame
        if not connector.received_sigterm and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signum)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = stop
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
