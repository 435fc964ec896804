"""Heterogeneous federated learning on PyTorch Lightning.

Names are imported when they are first looked up, so that ``hetfed --help`` need not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning._lazy import lazy_names
from hetfed_lightning._moved import install
from hetfed_lightning._strategy_name import register_name
from hetfed_lightning.version import __version__

if TYPE_CHECKING:
    from hetfed_lightning.benchmarking import benchmark
    from hetfed_lightning.callbacks.monitor import FederationMonitor
    from hetfed_lightning.callbacks.progress_bar import FederatedProgressBar
    from hetfed_lightning.callbacks.record import RunRecord
    from hetfed_lightning.checkpointing.plugin import SafeCheckpointIO
    from hetfed_lightning.cli.export import load_participant
    from hetfed_lightning.data import FederatedDataModule
    from hetfed_lightning.federated_callback import FederatedCallback, Phase
    from hetfed_lightning.federation.federation import Federation
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.methods.averaging.backbone_averaging import BackboneAveraging
    from hetfed_lightning.methods.averaging.private_averaging import PrivateAveraging
    from hetfed_lightning.methods.context import Context
    from hetfed_lightning.methods.distillation.ensemble_distillation import EnsembleDistillation
    from hetfed_lightning.methods.inheritance import Inheritance
    from hetfed_lightning.methods.messages import Combined, Exchange, Message, PerParticipant, Work
    from hetfed_lightning.methods.method import About, Method
    from hetfed_lightning.methods.participant_data import ParticipantData
    from hetfed_lightning.methods.plans import Part
    from hetfed_lightning.methods.server_memory import ServerMemory
    from hetfed_lightning.participants.groups import ParticipantGroup
    from hetfed_lightning.participants.multi_input import MultiInputParticipant
    from hetfed_lightning.participants.participant import Participant
    from hetfed_lightning.participants.transfer import Transfer
    from hetfed_lightning.privacy import DPSGD
    from hetfed_lightning.schedules import CosineSchedule, LinearSchedule
    from hetfed_lightning.showcases import GenericAndPersonal
    from hetfed_lightning.strategies import FederatedStrategy
    from hetfed_lightning.tasks import BinaryTask, MulticlassTask, MultilabelTask, RegressionTask, Task

install()
register_name()

if not TYPE_CHECKING:  # A type checker would take any name for one of the package.
    # Names by the module that has them; the same as those imported above.
    __getattr__ = lazy_names(
        __name__,
        {
            "benchmarking": ("benchmark",),
            "callbacks.monitor": ("FederationMonitor",),
            "callbacks.progress_bar": ("FederatedProgressBar",),
            "callbacks.record": ("RunRecord",),
            "cli.export": ("load_participant",),
            "checkpointing.plugin": ("SafeCheckpointIO",),
            "data": ("FederatedDataModule",),
            "federated_callback": ("FederatedCallback", "Phase"),
            "federation.federation": ("Federation",),
            "federation_view": ("FederationView",),
            "methods.averaging.backbone_averaging": ("BackboneAveraging",),
            "methods.averaging.private_averaging": ("PrivateAveraging",),
            "methods.context": ("Context",),
            "methods.distillation.ensemble_distillation": ("EnsembleDistillation",),
            "methods.inheritance": ("Inheritance",),
            "methods.messages": ("Combined", "Exchange", "Message", "PerParticipant", "Work"),
            "methods.method": ("About", "Method"),
            "methods.participant_data": ("ParticipantData",),
            "methods.plans": ("Part",),
            "methods.server_memory": ("ServerMemory",),
            "participants.groups": ("ParticipantGroup",),
            "participants.multi_input": ("MultiInputParticipant",),
            "participants.participant": ("Participant",),
            "participants.transfer": ("Transfer",),
            "privacy": ("DPSGD",),
            "schedules": ("CosineSchedule", "LinearSchedule"),
            "showcases": ("GenericAndPersonal",),
            "strategies": ("FederatedStrategy",),
            "tasks": ("BinaryTask", "MulticlassTask", "MultilabelTask", "RegressionTask", "Task"),
        },
    )

__all__ = [
    "DPSGD",
    "About",
    "BackboneAveraging",
    "BinaryTask",
    "Combined",
    "Context",
    "CosineSchedule",
    "EnsembleDistillation",
    "Exchange",
    "FederatedCallback",
    "FederatedDataModule",
    "FederatedProgressBar",
    "FederatedStrategy",
    "Federation",
    "FederationMonitor",
    "FederationView",
    "GenericAndPersonal",
    "Inheritance",
    "LinearSchedule",
    "Message",
    "Method",
    "MultiInputParticipant",
    "MulticlassTask",
    "MultilabelTask",
    "Part",
    "Participant",
    "ParticipantData",
    "ParticipantGroup",
    "PerParticipant",
    "Phase",
    "PrivateAveraging",
    "RegressionTask",
    "RunRecord",
    "SafeCheckpointIO",
    "ServerMemory",
    "Task",
    "Transfer",
    "Work",
    "__version__",
    "benchmark",
    "load_participant",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
