"""The coordinator's half of averaging: what sites offer to share, and the promises of private averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning as L

from hetfed_lightning.flower.coordinator.method_rounds import MethodRounds
from hetfed_lightning.flower.protocol.description import Description, empty_state, parameters_of
from hetfed_lightning.flower.protocol.orders import Reply
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.averaging.offers import offer
from hetfed_lightning.methods.averaging.private_averaging import Calendar, PrivateAveraging
from hetfed_lightning.methods.averaging.private_checks import check_company
from hetfed_lightning.methods.messages import Message


class AveragingRounds(MethodRounds):
    """Rounds of one averaging callback at the coordinator.

    Args:
        place: Place of the callback among those of the configuration.
        method: Callback, made of the same configuration as at the sites.
        seed: Seed of the federation.
    """

    def __init__(self, place: int, method: BackboneAveraging, seed: int) -> None:
        super().__init__(place, method, seed)
        self._averaging = method

    def about(self, descriptions: Mapping[str, Description]) -> dict[str, Message]:
        """Offers of sites by name; most sites say what is a parameter, and each what a subclass describes beside.

        Args:
            descriptions: Descriptions by participant.
        """
        parameters = parameters_of(descriptions.values())
        found: dict[str, Message] = {}
        for name, one in descriptions.items():
            trained = {key: key in one.trained for key in parameters}
            state = empty_state(one.offered[self.place])
            own = offer(state, trained, one.foundations.get(self.place, {}), one.samples)
            found[name] = {**one.about_for(self.place), **own}
        return found

    def arrange(self, descriptions: Mapping[str, Description], *, is_whole: bool = True) -> bool:
        """True if groups of those who are known are found; logs who shares what with whom.

        Args:
            descriptions: Descriptions by participant.
            is_whole: True if nobody is missing; while somebody is, those who are there may have nothing in common.

        Raises:
            ValueError: If nobody has anything in common, or the rule needs more participants.
        """
        if not super().arrange(descriptions, is_whole=is_whole):
            return False
        self._averaging.tell(
            {name: empty_state(one.offered[self.place]) for name, one in descriptions.items()},
            {name: empty_state(one.personal) for name, one in descriptions.items()},
            {name: one.tied for name, one in descriptions.items()},
        )
        return True


class PrivateRounds(AveragingRounds):
    """Rounds of private averages at the coordinator, each of which is accounted for.

    Args:
        place: Place of the callback among those of the configuration.
        method: Callback, made of the same configuration as at the sites.
        seed: Seed of the federation.
        calendar: Participation plan of the run.
    """

    is_accounted = True

    def __init__(self, place: int, method: PrivateAveraging, seed: int, calendar: Calendar) -> None:
        super().__init__(place, method, seed)
        self._private, self._calendar = method, calendar

    def may_begin(self, round_index: int, company: Sequence[L.Callback], count: int) -> None:
        """Refuse a run that would void the promise of private averages.

        Args:
            round_index: The first round, from 0.
            company: All callbacks of the configuration.
            count: Number of participants.

        Raises:
            ValueError: If it would; with the reason.
        """
        check_company(company, self._private)
        self._private.check_promise(count)
        self._private.check_first(self._calendar, round_index)

    def combine(
        self,
        round_index: int,
        replies: Mapping[str, Reply],
        asked: Sequence[str],
        joined: Sequence[str],
        receivers: Sequence[str] | None = None,
    ) -> dict[str, float]:
        """Release the noised means; a budget that allows no further release ends the training.

        Args:
            round_index: The round, from 0.
            replies: Usable replies by participant.
            asked: Participants that were asked.
            joined: Participants that have joined.
            receivers: None, for all of them.

        Returns:
            Figures by tag, among them the privacy cost so far.
        """
        figures = super().combine(round_index, replies, asked, joined, receivers)
        if not asked:
            return figures
        self.is_spent |= self._private.is_spent(self._calendar, round_index)
        return figures | self._private.figures()
