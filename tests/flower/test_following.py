"""What of a ServerApp's log is shown."""

import pytest

from hetfed_lightning.flower.following import _Lines


def test_lines_are_whole_and_without_what_the_engine_says(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _Lines()
    for piece in [
        "Round 1/2 \u00b7 3 of",
        " 3\n\x1b[92mINFO \x1b[0m:      \n",
        "\x1b[93mWARNING \x1b[0m:   x\nRound 2",
        "/2\n",
    ]:
        lines.show(piece)
    assert capsys.readouterr().out == "Round 1/2 \u00b7 3 of 3\nRound 2/2\n"
