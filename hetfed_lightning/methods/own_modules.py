"""Modules that methods give to participants: trained by the participant's optimizer, saved and moved with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from hetfed_lightning.federated_callback import acting_callbacks
from hetfed_lightning.methods.hook_results import naming
from hetfed_lightning.methods.method import Method
from hetfed_lightning.participants.layer_checks import check_initialised
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
        ValueError: If a module has parameters of the participant, or of another one.
    """
    methods = [one for one in acting_callbacks(federation.trainer) if isinstance(one, Method) and _has_modules(one)]
    owners: dict[nn.Parameter, str] = {}  # By the objects: an address may be that of a dropped module's.
    for name, participant in federation.members().items():
        found = {one.title: _made(federation, participant, one) for one in methods}
        for title, made in found.items():
            for parameter in nn.ModuleDict(made).parameters():
                if (other := owners.setdefault(parameter, name)) != name:
                    raise ValueError(
                        f"{participant.label}: {title}.modules gives it parameters that {other!r} has got. Make "
                        "modules anew for each participant."
                    )
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
        where = f"{participant.label}: {method.title}.modules"
        with naming(where):
            made: Any = method.modules(participant)
    if not isinstance(made, Mapping):
        raise TypeError(
            f"{where}: expected modules by name, such as {{'common': torch.nn.Linear(8, 2)}}, got "
            f"{type(made).__name__}."
        )
    own = {id(one) for one in participant.parameters()} - {
        id(one) for module in participant.modules_of(method.title).values() for one in module.parameters()
    }
    for name, one in made.items():
        if not isinstance(name, str) or not name or "." in name:
            raise TypeError(f"{where}: expected names without a full stop, such as 'common', got {name!r}.")
        if not isinstance(one, nn.Module):
            is_class = isinstance(one, type) and issubclass(one, nn.Module)
            got = f"the class {one.__name__}: make one of it" if is_class else type(one).__name__
            raise TypeError(f"{where}: expected a module at {name}, got {got}.")
        check_initialised(one, f"{where}: {name}")
        if any(id(parameter) in own for parameter in one.parameters()):
            raise ValueError(
                f"{where}: {name} has parameters of the participant itself. Make modules of the method's own "
                "(copy.deepcopy makes one of another)."
            )
    return dict(made)


def _newest(before: Mapping[str, nn.Module], made: dict[str, nn.Module]) -> Mapping[str, nn.Module]:
    """The modules of an earlier fit where they have the same names and shapes, else those just made."""
    return before if _layout(before) == _layout(made) else made


def _layout(modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    state = nn.ModuleDict(modules).state_dict()
    return {key: getattr(one, "shape", None) for key, one in state.items()}
