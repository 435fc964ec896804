r"""Every notebook runs from top to bottom, and what is committed shows what it printed and nothing of the machine.

To renew the outputs of a notebook, without the times that ``jupyter execute`` notes in it::

    python -c "import nbclient, nbformat, sys; path = sys.argv[1]; notebook = nbformat.read(path, 4); \
    nbclient.NotebookClient(notebook, record_timing=False).execute(); \
    nbformat.write(notebook, path)" notebooks/01_first_federation.ipynb
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

ROUNDS = "2"
"""Rounds that the notebooks train here, by HETFED_NOTEBOOK_ROUNDS: enough to draw a line."""

SECONDS_PER_CELL = 240

LARGEST = 400_000
"""Bytes of a notebook, pictures included: it stays in the history for good."""

# Pieced together, so that whoever searches the repository for such paths does not find this file.
FOLDERS = ("home", "root", "Users", "work", "tmp", "usr", "opt", "var", "private", "mnt", "content")
MACHINE_PATH = re.compile(
    "|".join([rf"(?<![\w.~:/-])/(?:{'|'.join(FOLDERS)})(?![\w-])", r"\b[A-Z]:\\+\w", "site" + "-packages"])
)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])

# What is committed of a notebook is always looked at; run are the first always, and the others with `-m slow`.
each_run = pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if number else []) for number, path in enumerate(NOTEBOOKS)],
    ids=[path.stem for path in NOTEBOOKS],
)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def words_of(output: Any) -> str:
    """What an output says, pictures left out."""
    shown = {kind: data for kind, data in output.get("data", {}).items() if not kind.startswith("image/")}
    return json.dumps([output.get("text", ""), shown, output.get("traceback", [])], ensure_ascii=False)


class Kernel(AsyncKernelManager):
    """A kernel of the interpreter that runs the tests.

    With no folder to look in, a kernel that somebody installed under the same name is not found, and
    jupyter_client falls back on ipykernel in ``sys.executable``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **settings)


def run(notebook: Any, working: Path) -> None:
    """Execute all cells, or fail with the traceback of the one at fault."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        kernel_manager_class=Kernel,
        timeout=SECONDS_PER_CELL,
        resources={"metadata": {"path": str(working)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in, and an environment in which a notebook trains briefly and leaves nothing behind."""
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "TMPDIR"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("HETFED_NOTEBOOK_ROUNDS", ROUNDS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)  # this checkout, whatever is installed
    monkeypatch.delenv("MPLBACKEND", raising=False)  # ipykernel draws into the notebook unless told otherwise
    folder = tmp_path / "working"
    folder.mkdir()
    return folder


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


@pytest.mark.notebook
@each_run
def test_it_runs_from_top_to_bottom(path: Path, working: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == NOTEBOOKS[0]:
        monkeypatch.setenv("HETFED_NOTEBOOK_ROUNDS", "1")  # All that it does is in one.
    notebook = read(path)
    run(notebook, working)
    assert not list(working.iterdir()), "a notebook writes into a temporary folder alone"
    noise = [
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stderr"
    ]
    assert not noise, "a notebook speaks by its own prints, not by warnings and logs"


@pytest.mark.notebook
def test_a_cell_that_fails_is_named_by_its_traceback(working: Path) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in ("one = 1", "one / 0")]  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    with pytest.raises(pytest.fail.Exception, match=r"(?s)one / 0.*ZeroDivisionError"):
        run(notebook, working)


@each_notebook
def test_it_is_committed_as_it_ran(path: Path) -> None:
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run all cells, once, in order"
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "there is a picture to look at"
    assert not [output.ename for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@each_notebook
def test_it_tells_nothing_of_the_machine(path: Path) -> None:
    notebook = read(path)
    said = [words_of(output) for cell in code_cells(path) for output in cell.outputs]
    found = [
        match.group()
        for words in [*said, *(cell.source for cell in notebook.cells)]
        for match in MACHINE_PATH.finditer(words)
    ]
    assert not found
    assert notebook.metadata.kernelspec.name == "python3"
    assert not [cell.id for cell in notebook.cells if cell.metadata], "no times of execution, no editor's settings"


@each_notebook
def test_it_is_small(path: Path) -> None:
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_machine_path_is_recognised(folder: str) -> None:
    for text in (f"/{folder}/someone/x.py", f'File "/{folder}/x.py", line 1', f"saved in /{folder}"):
        assert MACHINE_PATH.search(text)


def test_a_windows_path_is_recognised() -> None:
    assert MACHINE_PATH.search(json.dumps("C:" + chr(92) + "Users"))


@pytest.mark.parametrize(
    "text", ["train_loss/hospital_a", "at home/work", "https://example.org/home/x", "folder/tmp/x", "/workers", "3/4"]
)
def test_what_is_no_machine_path_is_let_through(text: str) -> None:
    assert not MACHINE_PATH.search(text)
