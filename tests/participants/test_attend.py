"""The rounds of a participant, set before a run."""

from tests.federations import tiny_participant


def test_a_participant_attends_from_one_round_until_another() -> None:
    participant = tiny_participant(joins_at=2, leaves_at=4)
    assert [participant.is_member(index) for index in range(5)] == [False, False, True, True, False]
    participant.attend(1, 3)
    assert [participant.is_member(index) for index in range(5)] == [False, True, True, False, False]
    participant.attend()
    assert all(participant.is_member(index) for index in range(5))
