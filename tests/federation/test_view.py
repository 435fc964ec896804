"""A federation is what callbacks and methods see of it."""

from hetfed_lightning import FederationView
from tests.federations import tiny_federation


def names_of(view: type) -> set[str]:
    """Public members of a Protocol and of those that it extends."""
    own = [one for one in view.__mro__ if one.__module__ == FederationView.__module__]
    return {name for one in own for name in vars(one) if not name.startswith("_")}


def test_a_federation_has_what_the_view_promises() -> None:
    federation = tiny_federation()
    view: FederationView = federation  # Its types are for mypy to compare.
    found = {*dir(type(federation)), *vars(federation), *federation._modules}
    assert names_of(FederationView) >= {"members", "current_round", "work_of"}
    assert names_of(FederationView) <= found
    assert view["a"] is federation["a"]


def test_parts_of_a_federation_have_what_their_views_promise() -> None:
    federation = tiny_federation()
    for part in ("guard", "fleets", "logbook", "plans"):
        view = getattr(FederationView, part).fget.__annotations__["return"]
        promised = names_of(getattr(__import__(FederationView.__module__, fromlist=[view]), view))
        assert promised
        assert promised <= set(dir(getattr(federation, part)))
