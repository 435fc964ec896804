"""Modules that methods give to participants: trained by the participant's optimizer, saved and moved with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from hetfed_lightning.federated_callback import acting_callbacks
from hetfed_lightning.methods.method import Method
from hetfed_lightning.participants.participant import METHOD_MODULES
from hetfed_lightning.seeding import seed_all, stream_seed, streams_kept

if TYPE_CHECKING:
    from hetfed_lightning.federation_view import FederationView
    from hetfed_lightning.participants.participant import Participant


def give_modules(federation: FederationView, *, fit: bool) -> None:
    """Attach the modules of the run's methods to participants, before optimizers are made and a checkpoint is read.

    Initial weights depend on (seed, participant, method) alone. Modules of the same shapes stay from an earlier fit.

    Args:
        federation: Federation with its trainer.
        fit: True for a training, which drops modules of methods that are not in the run.

    Raises:
        TypeError: If ``modules`` of a method returns anything but modules by name.
    """
    methods = [one for one in acting_callbacks(federation.trainer) if isinstance(one, Method) and _has_modules(one)]
    for participant in federation.members().values():
        found = {one.title: _made(federation, participant, one) for one in methods}
        kept = {} if fit else {title: participant.modules_of(title) for title in participant.titles_of_modules()}
        participant.attach_modules(
            kept | {title: _newest(participant.modules_of(title), made) for title, made in found.items() if made}
        )


def fit_checkpoint(state: dict[str, Any], federation: FederationView) -> None:
    """Drop modules of absent methods from a checkpoint, and add the present values of modules that it lacks.

    Args:
        state: Tensors of a federation's checkpoint, by key; changed in place.
        federation: Federation that loads it.
    """
    for name, participant in federation.members().items():
        prefix = f"{federation.prefix_of(name)}.{METHOD_MODULES}."
        own = {key: one for key, one in participant.state_dict().items() if key.startswith(f"{METHOD_MODULES}.")}
        here = {f"{federation.prefix_of(name)}.{key}": one for key, one in own.items()}
        for key in [key for key in state if key.startswith(prefix) and key not in here]:
            del state[key]
        state.update({key: one for key, one in here.items() if key not in state})


def _has_modules(method: Method) -> bool:
    return type(method).modules is not Method.modules


def _made(federation: FederationView, participant: Participant, method: Method) -> dict[str, nn.Module]:
    with streams_kept(federation.device):
        seed_all(stream_seed(federation.seed, "modules", participant.name or "", method.title), federation.device)
        made: Any = method.modules(participant)
    if not isinstance(made, Mapping) or not all(isinstance(one, nn.Module) for one in made.values()):
        raise TypeError(
            f"{participant.label}: {method.title}.modules: expected modules by name, such as "
            f"{{'common': torch.nn.Linear(8, 2)}}, got {type(made).__name__}."
        )
    return dict(made)


def _newest(before: Mapping[str, nn.Module], made: dict[str, nn.Module]) -> Mapping[str, nn.Module]:
    """The modules of an earlier fit where they have the same names and shapes, else those just made."""
    return before if _layout(before) == _layout(made) else made


def _layout(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    state = nn.ModuleDict(modules).state_dict()
    return {key: getattr(one, "shape", None) for key, one in state.items()}
