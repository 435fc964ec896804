"""Exchanges of a round: at one moment all methods of a phase send before any of their results is handed out.

Between institutions a site sends all its messages of a moment at once and receives the results later. In one process
the order is the same: a method's ``send`` never sees a result that another method of its phase hands out at the same
moment. The exchange of an earlier phase is made wholly before: averages are of what was distilled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from hetfed_lightning.federated_callback import FederatedCallback, federated_callbacks
from hetfed_lightning.methods.method import Method, without_super

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView


class RoundExchange:
    """Exchanges of all methods at one moment of a round, each phase's made once.

    Args:
        federation: The federation, in a round.
        when: ``"start"`` or ``"end"`` of the round.
    """

    def __init__(self, federation: FederationView, when: Literal["start", "end"]) -> None:
        self._federation, self._when = federation, when
        self._due: dict[int, list[Method]] = {}
        for one in federated_callbacks(federation.trainer):
            if isinstance(one, Method) and one.exchanges:
                self._due.setdefault(one.phase, []).append(one)

    def before(self, callback: FederatedCallback) -> None:
        """Make the exchanges that come before a callback; called by :func:`raise_event`.

        At a round's end a phase's exchange comes before the first of its methods: callbacks before that act before
        anything is sent. At a round's start it follows the phase. A method without exchanges starts none.

        Args:
            callback: Callback whose event is next.
        """
        ends = self._when == "end" and isinstance(callback, Method) and bool(callback.exchanges)
        for phase in [one for one in self._due if one < callback.phase or (ends and one == callback.phase)]:
            self._make(self._due.pop(phase))

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
        """Make the exchanges that are left; a second call does nothing."""
        while self._due:
            self._make(self._due.pop(min(self._due)))

    def _make(self, methods: Sequence[Method]) -> None:
        """Collect and combine the messages of a phase, and at a round's start hand out the results."""
        federation, round_index = self._federation, self._federation.current_round
        steps: list[Callable[[Method], None]] = [
            lambda method: method.carried.collect(federation, round_index, self._when),
            lambda method: method.carried.combine(federation, round_index),
        ]
        if self._when == "start":
            steps.append(lambda method: method.on_round_started(federation, round_index))
        for step in steps:
            for method in methods:
                step(method)
