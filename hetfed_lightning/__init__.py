"""Heterogeneous federated learning on PyTorch Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetfed_lightning._moved import install, names_moved_from
from hetfed_lightning.benchmarking import benchmark
from hetfed_lightning.callbacks.monitor import FederationMonitor
from hetfed_lightning.callbacks.progress_bar import FederatedProgressBar
from hetfed_lightning.callbacks.record import RunRecord
from hetfed_lightning.checkpointing.plugin import SafeCheckpointIO
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
from hetfed_lightning.version import __version__

install()
if not TYPE_CHECKING:  # A type checker would take any name for one of the package.
    __getattr__ = names_moved_from(__name__)

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
]
