"""Exchanges of a round: at one moment all methods send before any result is handed out.

Between institutions a site sends all its messages of a moment at once and receives the results later. In one process
the order is the same: a method's ``send`` never sees a result that another method hands out at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from hetfed_lightning.federated_callback import FederatedCallback, federated_callbacks
from hetfed_lightning.methods.method import Method, without_super

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView


class RoundExchange:
    """Exchange of all methods at one moment of a round, made once.

    Args:
        federation: The federation, in a round.
        when: ``"start"`` or ``"end"`` of the round.
    """

    def __init__(self, federation: FederationView, when: Literal["start", "end"]) -> None:
        self._federation, self._when = federation, when
        self._methods = [one for one in federated_callbacks(federation.trainer) if isinstance(one, Method)]
        self._is_made = not self._methods

    def before(self, callback: FederatedCallback) -> None:
        """Make the exchange before the first callback that acts after it; called by :func:`raise_event`.

        At a round's end that is the first method: callbacks before it, of its phase too, act before anything is sent.
        At a round's start the exchange follows the methods' phase.
        """
        if self._when == "end":
            is_time = isinstance(callback, Method)
        else:
            is_time = bool(self._methods) and callback.phase > max(one.phase for one in self._methods)
        if is_time:
            self.make()

    @staticmethod
    def after(callback: FederatedCallback) -> None:
        """Refuse a method that has handed out nothing at the round's end, though there is a result.

        Args:
            callback: Callback whose event at the round's end is over.

        Raises:
            RuntimeError: If its event is overridden without ``super()``.
        """
        if isinstance(callback, Method) and callback.carried.is_pending:
            raise RuntimeError(without_super(callback, "on_round_end"))

    def make(self) -> None:
        """Collect and combine all messages, and at a round's start hand out the results; a second call does nothing."""
        if self._is_made:
            return
        self._is_made = True
        federation, round_index = self._federation, self._federation.current_round
        steps: list[Callable[[Method], None]] = [
            lambda method: method.carried.collect(federation, round_index, self._when),
            lambda method: method.carried.combine(federation, round_index),
        ]
        if self._when == "start":
            steps.append(lambda method: method.carried.hand_out(federation, round_index))
        for step in steps:
            for method in self._methods:
                step(method)
