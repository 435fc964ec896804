"""A watch tells whether a federation has begun to train while it was open."""

from hetfed_lightning.federation.training_watch import watch_training
from tests.federations import tiny_data, tiny_federation, trainer


def test_each_watch_sees_what_began_while_it_was_open() -> None:
    data = tiny_data()
    with watch_training() as outer:
        with watch_training() as idle:
            trainer(0).fit(tiny_federation(), datamodule=data)
        assert not outer.begun
        with watch_training() as inner:
            trainer(1).fit(tiny_federation(), datamodule=data)
    with watch_training() as later:
        pass
    assert (outer.begun, idle.begun, inner.begun, later.begun) == (True, False, True, False)
