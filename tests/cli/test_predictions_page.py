"""The configuration, the commands and the program of docs/predictions.md, run one after another."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.commands import hetfed

PAGE = Path(__file__).resolve().parents[2] / "docs" / "predictions.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
def test_the_page_does_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (config,), (program,) = blocks("yaml"), blocks("python")
    Path("hospitals.yaml").write_text(config, encoding="utf-8")
    header = "hospital,patient,age,pressure,sick"
    rows = [
        f"{('north', 'south')[i % 2]},{i:03d},{20 + i},{'' if i % 9 == 1 else 90 + i % 40},{('no', 'yes')[i // 2 % 2]}"
        for i in range(60)
    ]
    Path("patients.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    new = ["patient,hospital,sick,pressure,age", "007,south,yes,120,50", "008,north,,,61"]
    Path("new.csv").write_text("\n".join(new), encoding="utf-8")
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 5
    for number, command in enumerate(commands):
        ended = hetfed(capsys, *shlex.split(command)[1:])
        assert ended.code == 0, ended.err
        if number == 1:
            Path("patients.csv").unlink()  # New rows need no training data.
    table = pd.read_csv("new_predicted.csv", dtype={"id": str})
    columns = re.search(r"^id,row.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert columns is not None
    assert list(table.columns) == columns[0].split(",")
    assert table[["id", "participant"]].to_numpy().tolist() == [["007", "south"], ["008", "north"]]
    told: dict[str, object] = {}
    exec(program, told)  # noqa: S102
    found = told["table"]
    assert isinstance(found, pd.DataFrame)
    pd.testing.assert_frame_equal(found, pd.read_csv("north.csv"), check_dtype=False, rtol=1e-6)
