"""Groups in a configuration: ``clinic: {count: 100, class_path: ..., init_args: ...}`` is a participant with a count.

Files and overrides are merged in that short form, so that a second file and
``--model.participants.clinic.init_args.optimizer...`` reach the settings below it as for a single participant. The
parser is given a :class:`~hetfed_lightning.ParticipantGroup`, which it reads and makes once, however large the count
is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hetfed_lightning.cli.merging import merge
from hetfed_lightning.participants.groups import member_names, place_taken

GROUP = "hetfed_lightning.ParticipantGroup"
_PATHS = {GROUP, "hetfed_lightning.participants.groups.ParticipantGroup"}


def is_group(settings: Any) -> bool:
    """True if a participant's settings are those of a group, in the parser's form."""
    return isinstance(settings, Mapping) and str(settings.get("class_path")) in _PATHS


def short_form(config: dict[str, Any]) -> dict[str, Any]:
    """Configuration in which groups are participants with a ``count``, as people write them.

    Raises:
        ValueError: If a group has an argument beside the count and the participant.
    """
    return _with_participants(config, lambda found: {name: _shortened(name, one) for name, one in found.items()})


def full_form(config: dict[str, Any]) -> dict[str, Any]:
    """Configuration in which groups have the parser's form.

    A member that is listed by itself, with its own settings alone, becomes a whole participant: the group's settings
    with its own over them.

    Raises:
        ValueError: If a name looks like a group's member and is none.
    """
    return _with_participants(config, _filled)


def template_of(name: str, participants: Mapping[str, Any]) -> dict[str, Any] | None:
    """Settings of the group that ``name`` is a member of, in the short form without the count; None for no group.

    Args:
        name: Name of a participant.
        participants: Settings by name, in the short form.

    Raises:
        ValueError: If the name looks like a group's member and is none.
    """
    group = place_taken(name, _counts(participants))
    return None if group is None else {key: value for key, value in participants[group].items() if key != "count"}


def settings_by_member(participants: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of every participant, those of groups once for each member.

    Args:
        participants: Settings by name, in the parser's form.
    """
    found: dict[str, Any] = {}
    for name, settings in participants.items():
        if is_group(settings):
            inside = settings["init_args"]
            members = member_names(name, inside["count"])
            found |= {member: participants.get(member, inside["participant"]) for member in members}
        else:
            found.setdefault(name, settings)
    return found


def _with_participants(config: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    model = config.get("model")
    participants = model.get("participants") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(participants, dict):
        return config
    return config | {"model": model | {"participants": change(participants)}}


def _shortened(name: str, settings: Any) -> Any:
    inside = settings.get("init_args") if is_group(settings) else None
    if not isinstance(inside, Mapping) or not isinstance(inside.get("participant"), Mapping):
        return settings
    if others := sorted(inside.keys() - {"count", "participant"}):
        raise ValueError(
            f"model.participants.{name}: a group has count and participant, got {', '.join(others)} beside them. "
            "Settings of its members stand in participant.init_args."
        )
    return {"count": inside.get("count")} | dict(inside["participant"])


def _filled(participants: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, settings in participants.items():
        if isinstance(settings, Mapping) and "count" in settings:
            inside = {key: value for key, value in settings.items() if key != "count"}
            found[name] = {"class_path": GROUP, "init_args": {"count": settings["count"], "participant": inside}}
        else:
            template = template_of(str(name), participants)
            found[name] = settings if template is None else merge(template, settings)
    return found


def _counts(participants: Mapping[str, Any]) -> dict[str, int]:
    counts = {
        name: settings["count"]
        for name, settings in participants.items()
        if isinstance(settings, Mapping) and "count" in settings
    }
    return {name: count for name, count in counts.items() if isinstance(count, int) and count > 0}
