"""Data modules of hourly traffic: three cities, each in a unit of its own, and the car parks of one city."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hetfed_lightning.data.errors import DataError
from hetfed_lightning.data.examples import Examples
from hetfed_lightning.data.module import FederatedData, FederatedDataModule
from hetfed_lightning.data.name_checks import did_you_mean
from hetfed_lightning.data.partitioned import shuffled
from hetfed_lightning.showcases.cities.flows import CITIES, Flow, read_car_parks, read_city
from hetfed_lightning.showcases.cities.lags import Hours, Scale, usable_hours


class FlowDataModule(FederatedDataModule):
    """Hourly flows, each participant's cut by time: training first, then validation, then test.

    Inputs are the ten features of :mod:`hetfed_lightning.showcases.cities.lags`; targets are the flow of the hour in
    the participant's own unit, for which it wants ``target_transform=Standardise()``. The public set holds features,
    free of units, of hours drawn from the training parts, which lose them, in proportion to their length. A subclass
    overrides :meth:`load_flows`.

    Args:
        own_fractions: Training, validation and test shares of each participant's hours, in order of time; they sum to
            one, and the first is above 0.
        history: True for inputs ``{"features": (10,), "history": (24, 2)}``, with the last 24 hours, for a recurrent
            network.
        public_size: Number of public hours, at least 0.
        seed: Seed of the choice of the public hours; nothing else is drawn.
        settings: As for :class:`FederatedDataModule`: ``batch_size``, ``num_workers`` and so on.

    Attributes:
        hours: Each participant's usable hours, by name, once loaded.
        scales: Mean and deviation of each participant's training hours, by name, once loaded; lags and history are in
            these deviations.

    Raises:
        DataError: If a share is out of its range, or a part would be empty.
    """

    def __init__(
        self,
        *,
        own_fractions: tuple[float, float, float] = (0.6, 0.1, 0.3),
        history: bool = False,
        public_size: int = 0,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if len(own_fractions) != 3 or min(own_fractions) < 0 or abs(sum(own_fractions) - 1) > 1e-9:
            raise DataError(f"own_fractions: expected three shares that sum to one, got {own_fractions}.")
        if public_size < 0:
            raise DataError(f"public_size: expected 0 or more, got {public_size}.")
        self.own_fractions = own_fractions
        self.history = history
        self.public_size = public_size
        self.seed = seed
        self.hours: dict[str, Hours] = {}
        self.scales: dict[str, Scale] = {}

    @abstractmethod
    def load_flows(self) -> Mapping[str, Flow]:
        """Flow of each participant, by name; called once, when the data is loaded.

        Raises:
            DataError: If a flow cannot be read.
        """

    def load(self, participants: tuple[str, ...]) -> FederatedData:
        """Data sets of the flows, each cut by time; the names are the data's own."""
        del participants
        self.hours = {name: usable_hours(flow) for name, flow in self.load_flows().items()}
        val: dict[str, Examples] = {}
        test: dict[str, Examples] = {}
        whole: dict[str, Examples] = {}
        for name, hours in self.hours.items():
            first, second = self._ends(hours)
            self.scales[name] = hours.scale(first)
            examples = hours.examples(self.scales[name], history=self.history)
            whole[name] = examples.subset(range(first))
            if second > first:
                val[name] = examples.subset(range(first, second))
            if len(hours) > second:
                test[name] = examples.subset(range(second, len(hours)))
        train, public = self._published(whole)
        return FederatedData(train, val, test, public=public)

    def _ends(self, hours: Hours) -> tuple[int, int]:
        """Positions at which training ends and at which validation ends."""
        count = len(hours)
        first, second = (round(count * sum(self.own_fractions[: i + 1])) for i in range(2))
        for share, size, part in zip(
            self.own_fractions, (first, second - first, count - second), ("training", "validation", "test"), strict=True
        ):
            if size < 1 and (share > 0 or part == "training"):
                raise DataError(
                    f"{hours.name}: its {count} usable hours leave none for {part}, of which {share:.0%} was wanted: "
                    "change own_fractions, or leave it out"
                )
        return first, second

    def _published(self, whole: Mapping[str, Examples]) -> tuple[dict[str, Examples], Examples | None]:
        """The training sets without the hours that are public, and those."""
        if not self.public_size:
            return dict(whole), None
        owners = torch.cat([torch.full((len(one),), place) for place, one in enumerate(whole.values())])
        if self.public_size >= len(owners) // 2:
            raise DataError(
                f"public_size: expected fewer than half of the {len(owners)} training hours, got {self.public_size}"
            )
        chosen = torch.zeros(len(owners), dtype=torch.bool)
        chosen[shuffled(len(owners), self.seed, "public")[: self.public_size]] = True
        train, public = {}, []
        for place, (name, examples) in enumerate(whole.items()):
            given = chosen[owners == place]
            train[name] = examples.subset((~given).nonzero().flatten())
            if given.any():
                public.append(examples.subset(given.nonzero().flatten()))
        return train, Examples.pooled(public)


class CitiesDataModule(FlowDataModule):
    """Flows of Minneapolis (vehicles per hour), Washington (bikes hired per hour) and Birmingham (cars per car park).

    Args:
        cities: Names of the cities, in order; all by default.
        history: True for inputs ``{"features": (10,), "history": (24, 2)}``.
        public_size: Number of public hours, at least 0.
        settings: As for :class:`FlowDataModule`.

    Reference:
        Hogue (2019), Metro Interstate Traffic Volume; Fanaee-T (2013), Bike Sharing; Stolfi (2019), Parking Birmingham:
        UCI Machine Learning Repository, CC BY 4.0.
    """

    def __init__(
        self, cities: Sequence[str] = CITIES, *, history: bool = True, public_size: int = 1000, **settings: Any
    ) -> None:
        super().__init__(history=history, public_size=public_size, **settings)
        _refuse_unknown("cities", cities, CITIES)
        self.cities = tuple(cities)

    def load_flows(self) -> Mapping[str, Flow]:
        """Flow of each city, by name."""
        return {name: read_city(name) for name in self.cities}


class CarParksDataModule(FlowDataModule):
    """Birmingham's 30 car parks, each a participant: cars parked, 8 to 16 h, October to December 2016.

    Participants are named after the car parks in lower case, other characters than letters and digits as underscores
    (``"Others-CCCPS133"`` becomes ``others_cccps133``), unless ``group`` numbers them.

    Args:
        car_parks: Names of the car parks to read; all 30 if None.
        group: Prefix of the names ``<group>_00``, ``<group>_01``, ... in alphabetical order, as the members of a
            :class:`~hetfed_lightning.ParticipantGroup` have them; None keeps the car parks' names.
        settings: As for :class:`FlowDataModule`.

    Reference:
        Stolfi (2019), Parking Birmingham, UCI Machine Learning Repository, CC BY 4.0.
    """

    def __init__(self, car_parks: Sequence[str] | None = None, *, group: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.car_parks = None if car_parks is None else tuple(car_parks)
        self.group = group

    def load_flows(self) -> Mapping[str, Flow]:
        """Flow of each car park, by name."""
        flows = {re.sub(r"\W+", "_", name).lower(): flow for name, flow in read_car_parks().items()}
        flows = dict(sorted(flows.items()))
        if self.car_parks is not None:
            _refuse_unknown("car_parks", self.car_parks, tuple(flows))
            flows = {name: flow for name, flow in flows.items() if name in self.car_parks}
        if self.group is None:
            return flows
        digits = len(str(len(flows)))
        return {f"{self.group}_{number:0{digits}d}": flow for number, flow in enumerate(flows.values())}


def _refuse_unknown(argument: str, names: Sequence[str], known: Sequence[str]) -> None:
    if isinstance(names, str) or not names or len(set(names)) < len(names):
        raise DataError(f"{argument}: expected a list of names, each once, got {names!r}.")
    for name in names:
        if name not in known:
            raise DataError(f"{argument}: no {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}")
