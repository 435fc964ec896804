"""Description of a site: its participant and its data, sent before anything is trained."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import lightning as L
import torch

from hetfed_lightning.callbacks.participant_summary import label_counts, roles
from hetfed_lightning.federated_callback import FederatedCallback
from hetfed_lightning.flower.protocol.arrays import DTYPES, Layout
from hetfed_lightning.flower.protocol.deployable import carried_methods, kind_of
from hetfed_lightning.flower.protocol.method_words import (
    Numbers,
    described,
    fault_of_numbers,
    layouts,
    message_layout,
    message_of,
    numbers_of,
)
from hetfed_lightning.flower.protocol.plain_data import Range, Size, Text
from hetfed_lightning.flower.protocol.untrusted import NAME, one_line, shown
from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
from hetfed_lightning.methods.averaging.column_checks import columns_read
from hetfed_lightning.methods.averaging.offers import beside_offer
from hetfed_lightning.methods.averaging.sharing_groups import personal_state
from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
from hetfed_lightning.participants.first_batch import outputs_of
from hetfed_lightning.participants.participant import STUDENT, output_width

if TYPE_CHECKING:
    from torch import Tensor

    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.methods.messages import Message
    from hetfed_lightning.methods.method import Method
    from hetfed_lightning.participants.participant import Participant

NUMBERED = ("multiclass", "binary")
"""Kinds of outputs whose labels are classes."""

MOST_NAMES = 10_000
"""Largest number of columns, classes or labels in a description."""

MOST_NUMBERS = 100_000
"""Largest number of elements of a tensor in a description."""

Name = Annotated[str, Text()]
Whole = Annotated[int, Range(0, 2**60)]
Names = Annotated[tuple[Name, ...], Size(MOST_NAMES)]
RoundIndex = Annotated[int, Range(0, 10**6)]


@dataclass(frozen=True)
class Description:
    """A site's participant and its data; beside the types stand the bounds within which a coordinator accepts values.

    Attributes:
        participant: Name of the participant.
        seed: Seed of its random streams.
        callbacks: Classes of the callbacks that act between participants, in order.
        offered: Layout of the state that it would send or average, by key, for each method that sends state, and each
            averaging callback, by its place.
        personal: Layout of the rest of its state, by key, for the report of personal parts.
        parameters: Keys that are parameters rather than buffers.
        trained: Keys of parameters that require a gradient.
        kind: Kind of its outputs, such as ``"multiclass"``.
        width: Number of outputs per example, C.
        public_size: Number of examples of the public set, P.
        public_hash: SHA-256 of the public set's inputs; empty without one.
        reads_public: True if it can predict on the public set.
        samples: Number of training examples.
        class_counts: Number of training examples by class if an ensemble weighs by it; else empty.
        joins_at: Round in which it joins.
        leaves_at: Round in which it leaves; None for never.
        lessons: Passes over the public set when it joins.
        role: Entries for records and reports.
        versions: Versions of hetfed-lightning, torch, lightning and Python.
        columns: Names of the columns that its network takes, in order; empty if inputs are no table.
        classes: Names of its classes, in order; empty without a vocabulary.
        labels: Names of the classes in its training set if labels are numbers without a vocabulary.
        tied: Keys whose tensor is that of a shared key, with that key.
        foundations: Digests of the frozen weights below the averaged ones, by key, for each averaging callback by its
            place; only participants with equal ones average together.
        about: Layout of what it describes of itself to each method by its place, by key, without what the entries
            above tell of averages and of teachers.
        numbers: Elements of those of these tensors that have any, by place and key.
        messages: Layout of its messages by key, for each method by its place that does not send state.
    """

    participant: Name
    seed: Annotated[int, Range(-(2**63), 2**64)]
    callbacks: Annotated[tuple[Name, ...], Size(100)]
    offered: Mapping[int, Mapping[Name, Layout]]
    personal: Mapping[Name, Layout]
    parameters: tuple[Name, ...]
    trained: tuple[Name, ...]
    kind: Name
    width: Annotated[int, Range(0, 10**6)]
    public_size: Annotated[int, Range(0, 10**9)]
    public_hash: Annotated[str, Text(64, may_be_empty=True)]
    reads_public: bool
    samples: Annotated[int, Range(1, 10**12)]
    class_counts: Annotated[tuple[Annotated[int, Range(0, 10**12)], ...], Size(10**6)]
    joins_at: RoundIndex
    leaves_at: RoundIndex | None
    lessons: Annotated[int, Range(0, 10**6)]
    role: Annotated[Mapping[Name, Annotated[str, Text(1_000, may_be_empty=True)] | bool | Whole], Size(100)]
    versions: Annotated[Mapping[Name, Name], Size(100)] = field(default_factory=dict)
    columns: Names = ()
    classes: Names = ()
    labels: Names = ()
    tied: Mapping[Name, Name] = field(default_factory=dict)
    foundations: Mapping[int, Mapping[Name, Annotated[str, Text(64, may_be_empty=True)]]] = field(default_factory=dict)
    about: Mapping[int, Mapping[Name, Layout]] = field(default_factory=dict)
    numbers: Mapping[int, Mapping[Name, Annotated[Numbers, Size(MOST_NUMBERS)]]] = field(default_factory=dict)
    messages: Mapping[int, Mapping[Name, Layout]] = field(default_factory=dict)

    def contradiction(self) -> str:
        """First contradiction between entries, each being as declared; empty without one."""
        keys = self.personal.keys() | {key for one in self.offered.values() for key in one} | self.tied.keys()
        if strange := sorted({*self.tied.values()} - keys):
            return f"something is tied to {strange[0]!r}, which is neither offered nor personal"
        if strange := [key for key in self.parameters if key not in keys]:
            return f"{strange[0]!r} is among 'parameters', and neither offered nor personal"
        if strange := sorted({*self.trained}.difference(self.parameters)):
            return f"{strange[0]!r} is trained, and no parameter"
        if self.reads_public != (self.width > 0) or (self.reads_public and not self.public_size):
            return f"it has {self.width} outputs for the {self.public_size} examples of its public set"
        if max(self.class_counts, default=0) > self.samples:
            return f"it has {max(self.class_counts)} examples of a class, and {self.samples} of all"
        faults = (fault_of_numbers(self.about.get(place, {}), own) for place, own in self.numbers.items())
        return next(filter(None, faults), "")

    def about_for(self, place: int) -> dict[str, Tensor]:
        """Description of the participant for the method at a place."""
        return message_of(self.about.get(place, {}), self.numbers.get(place, {}))

    def is_member(self, round_index: int) -> bool:
        """True if it takes part in a round: it has joined, and has not left."""
        return self.joins_at <= round_index and (self.leaves_at is None or round_index < self.leaves_at)


def describe(callbacks: Sequence[FederatedCallback], trainer: L.Trainer, federation: FederationView) -> Description:
    """Description of the only participant of a federation.

    Args:
        callbacks: Callbacks of the configuration that act between participants.
        trainer: Trainer in a fit that has begun.
        federation: Federation of one participant.
    """
    (name, participant), *_ = subjects(federation).items()
    data = federation.federated_data
    methods = carried_methods(callbacks) if name != STUDENT else {}
    averaging = {place: one for place, one in methods.items() if isinstance(one, BackboneAveraging)}
    offered = {place: keys for place, one in methods.items() if (keys := one.offered_keys(participant)) is not None}
    states = {place: participant.view_of(keys) for place, keys in offered.items()}
    optimizers = federation.local[name].optimizers
    parameters = dict(participant.named_parameters(remove_duplicate=False))
    everything = {key: tensor for state in states.values() for key, tensor in state.items()}
    reads, width = False, 0
    if data.num_public:
        inputs = data.public_inputs(torch.arange(1))
        reads = participant.reads_any_of(inputs)
        width = output_width(outputs_of(participant, inputs, "the public set")) if reads else 0
    weighs = any(isinstance(one, EnsembleDistillation) and "class_counts" in one.ensemble.needs for one in callbacks)
    counts = label_counts(federation, 1).get(name) if weighs and name != STUDENT else None
    about = {place: _beside(one, described(one, federation, name)) for place, one in methods.items()}
    role = asdict(next(one for one in roles(trainer, federation, 2) if one.name == name))
    return Description(
        participant=name,
        seed=federation.seed,
        callbacks=tuple(map(kind_of, callbacks)),
        offered={place: layouts(state) for place, state in states.items()},
        personal=layouts(personal_state(participant, everything)),
        tied=participant.tied_keys() if averaging else {},
        foundations={place: one.foundation(participant, optimizers) for place, one in averaging.items()},
        parameters=tuple(parameters),
        trained=tuple(key for key, one in parameters.items() if one.requires_grad),
        kind=participant.task.kind,
        width=width,
        public_size=data.num_public,
        public_hash=public_hash(federation) if data.num_public else "",
        reads_public=reads,
        samples=0 if name == STUDENT else data.num_samples(name),
        class_counts=() if counts is None else tuple(int(count) for count in counts),
        joins_at=participant.joins_at,
        leaves_at=participant.leaves_at,
        lessons=_lessons(participant),
        role={key: value for key, value in role.items() if key not in {"name", "shared_bytes", "shared_with"}},
        versions=versions(),
        columns=_told(columns_read(participant)),
        classes=_told(() if participant.schema is None else participant.schema.classes),
        labels=_labels(federation, name, participant),
        about={place: layouts(own) for place, own in about.items()},
        numbers={place: numbers_of(own) for place, own in about.items()},
        messages={
            place: message_layout(one, federation, name) for place, one in methods.items() if not one.sends_state
        },
    )


def parameters_of(descriptions: Iterable[Description]) -> frozenset[str]:
    """Keys of parameters rather than buffers, by the descriptions of at least half of the sites that offer them."""
    offered: Counter[str] = Counter()
    called: Counter[str] = Counter()
    for one in descriptions:
        offered.update({key for layout in one.offered.values() for key in layout})
        called.update(one.parameters)
    return frozenset(key for key, count in called.items() if 2 * count >= offered[key])


def subjects(federation: FederationView) -> dict[str, Participant]:
    """Participants that a site's federation trains, by name: its member, or the student if there is one."""
    return federation.members() if federation.student is None else {STUDENT: federation.student}


def empty_state(layout: Mapping[str, Layout]) -> dict[str, Tensor]:
    """Tensors of a layout's shapes without content, by key, on the device ``"meta"``."""
    return {key: torch.empty(shape, dtype=dtype_of(name), device="meta") for key, (shape, name) in layout.items()}


def dtype_of(name: str) -> torch.dtype:
    """Dtype of a name in torch.

    Raises:
        ValueError: If no tensor of that dtype can travel.
    """
    if name not in DTYPES:
        raise ValueError(f"expected the name of a dtype that can travel, got {shown(name)}.")
    return DTYPES[name]


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {name: version(name) for name in ("hetfed-lightning", "torch", "lightning")}
    return found | {"python": platform.python_version()}


def public_hash(federation: FederationView) -> str:
    """SHA-256 of the public set's inputs in their order, before any transform."""
    data, digest = federation.federated_data, hashlib.sha256()
    for indices in torch.arange(data.num_public).split(512):
        _feed(digest, data.public_inputs(indices))
    return digest.hexdigest()


def _feed(digest: Any, inputs: Any) -> None:
    if isinstance(inputs, torch.Tensor):
        whole = inputs.detach().cpu().contiguous()
        digest.update(f"{tuple(whole.shape)} {whole.dtype}".encode())
        digest.update(whole.flatten().view(torch.uint8).numpy().tobytes() if whole.numel() else b"")
    elif isinstance(inputs, Mapping):
        for key in sorted(inputs):
            digest.update(str(key).encode())
            _feed(digest, inputs[key])
    elif isinstance(inputs, Sequence) and not isinstance(inputs, str):
        for one in inputs:
            _feed(digest, one)
    else:
        digest.update(repr(inputs).encode())


def _told(names: Sequence[str]) -> tuple[str, ...]:
    """Names as they travel: printable and short."""
    return tuple(one_line(name, NAME) or "?" for name in names[:MOST_NAMES])


def _labels(federation: FederationView, name: str, participant: Participant) -> tuple[str, ...]:
    """Numeric labels in a table's training rows, if the classes have no names."""
    if participant.schema is None or participant.schema.classes or participant.task.kind not in NUMBERED:
        return ()
    found = federation.federated_data.train_targets(name).unique().tolist()
    return tuple(str(int(label)) for label in found[:MOST_NAMES])


def _beside(method: Method, described: Message) -> Message:
    """What a participant describes of itself beside the entries from which a coordinator makes the rest itself."""
    if isinstance(method, EnsembleDistillation):
        return {}
    return beside_offer(described) if isinstance(method, BackboneAveraging) else described


def _lessons(participant: Participant) -> int:
    return 0 if participant.transfer is None else participant.transfer.distillation_epochs
