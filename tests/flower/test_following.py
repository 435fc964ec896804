import pytest

from hetfed_lightning.flower.following import _Lines


def test_pieces_become_whole_lines_without_what_the_engine_says_of_itself(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _Lines()
    for piece in (
        "2 sites: a, ",
        "b.\nROUND",
        "\n\x1b[92mINFO \x1b[0m:      Start `flwr-serverapp` process\n",
        "\x1b[92mINFO \x1b[0m:      \n",
        "WARNING :   a column of the engine\n",
        "Successfully installed hetfed-small\n",
        "Round 1: INFO is left out: WARNING : slow.\n\x1b[91mERROR \x1b[0m:     it failed\n",
        "not yet whole",
    ):
        lines.show(piece)
    assert capsys.readouterr().out.splitlines() == [
        "2 sites: a, b.",
        "ROUND",
        "Round 1: INFO is left out: WARNING : slow.",
        "\x1b[91mERROR \x1b[0m:     it failed",
    ]
