"""A participant that a federation lets go before a run is free for another one."""

from hetfed_lightning import Federation
from hetfed_lightning.participants.participant import STUDENT
from tests.federations import fit, tiny_data, tiny_participant


def test_a_participant_that_is_dropped_is_free_for_another_federation() -> None:
    federation = Federation({"a": tiny_participant(), "b": tiny_participant()}, student=tiny_participant())
    leaver, student = federation.drop("b"), federation.drop(STUDENT)
    assert list(federation.everyone()) == ["a"]
    assert federation.student is None
    assert not any(key.startswith(("student", "participants.b")) for key in federation.state_dict())
    other = Federation({"c": leaver, "d": student})
    assert (leaver.name, leaver.host) == ("c", other)
    fit(other, tiny_data(("c", "d")), 1)
