"""Numbers of bytes of a round's messages, by method and direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class ByteCount:
    """Byte counters of one round.

    Attributes:
        up: Bytes from participants, summed over methods.
        down: Bytes to participants, summed over methods.
    """

    def __init__(self) -> None:
        self.up = self.down = 0
        self._by_method: dict[str, int] = {}

    def count(self, method: str, *, up: int = 0, down: int = 0) -> None:
        """Count bytes of a method's messages.

        Args:
            method: Title of the method.
            up: Bytes from participants.
            down: Bytes to participants.
        """
        self.up += up
        self.down += down
        for key, number in ((f"bytes_up/{method}", up), (f"bytes_down/{method}", down)):
            self._by_method[key] = self._by_method.get(key, 0) + number

    def figures(self) -> dict[str, int]:
        """Bytes by tag: ``bytes_up`` and ``bytes_down`` of all methods, and ``bytes_up/TITLE`` and the like of each."""
        return {"bytes_up": self.up, "bytes_down": self.down} | self._by_method

    def state_dict(self) -> dict[str, int]:
        """Counters for a checkpoint inside the round."""
        return self.figures()

    def load_state_dict(self, state: Mapping[str, int] | Sequence[int]) -> None:
        """Continue from the counters of a checkpoint; older ones have the two sums alone."""
        if isinstance(state, Mapping):
            own = dict(state)
            self.up, self.down, self._by_method = own.pop("bytes_up"), own.pop("bytes_down"), own
        else:
            (self.up, self.down), self._by_method = state, {}
