"""The exchanges of a round: what is due at one moment is sent by all methods before any result is handed out.

Between institutions a site sends all its messages of a moment at once and hears of the results later. In one process
it is the same: a method's ``send`` never sees what another method hands out at the same moment, whatever their order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from hetfed_lightning.federated_callback import FederatedCallback, federated_callbacks
from hetfed_lightning.methods.method import Method

if TYPE_CHECKING:
    from hetfed_lightning.federation.federation import Federation


class RoundExchange:
    """The exchange of all methods at one moment of a round, made once.

    Args:
        federation: In a round.
        when: The moment.
    """

    def __init__(self, federation: Federation, when: Literal["start", "end"]) -> None:
        self._federation, self._when = federation, when
        self._methods = [one for one in federated_callbacks(federation.trainer) if isinstance(one, Method)]
        self._is_made = not self._methods

    def before(self, callback: FederatedCallback) -> None:
        """Make the exchange if the callback is the first to act after it, as :func:`raise_event` calls it.

        At a round's end it precedes everything of the methods' phase, at its start it follows that.
        """
        phases = [one.phase for one in self._methods]
        if phases and (callback.phase >= min(phases) if self._when == "end" else callback.phase > max(phases)):
            self.make()

    def make(self) -> None:
        """Collect all messages, combine them, and at a round's start hand out the results, unless that was done."""
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
