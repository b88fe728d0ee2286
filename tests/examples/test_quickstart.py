from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import smcl

NOTEBOOKS = Path(smcl.__file__).parent / "examples"
# In place of what a reader runs, to end in seconds.
SMALL = {"NUM_POSTS = 1500": "NUM_POSTS = 64", "NUM_EPOCHS = 8": "NUM_EPOCHS = 1", "STEPS = 350": "STEPS = 5"}


@pytest.fixture(scope="module")
def quickstart():
    return nbformat.read(NOTEBOOKS / "quickstart.ipynb", as_version=4)


def test_notebook_is_kept_without_outputs(quickstart):
    cells = [cell for cell in quickstart.cells if cell.cell_type == "code"]
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_quickstart_runs_from_data_to_a_model_that_loads(quickstart, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    settings = next(cell for cell in quickstart.cells if "NUM_POSTS" in cell.source)
    for value, small in SMALL.items():
        assert value in settings.source
        settings.source = settings.source.replace(value, small)
    NotebookClient(quickstart, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    made = {path.name for path in (tmp_path / "quickstart").iterdir()}
    assert {"data", "text", "vision", "model", "card.png", "published"} <= made
    last = quickstart.cells[-1]
    assert "loaded(given)" in last.source and last.outputs[-1].data["text/plain"].startswith("[")
    drawn = [
        cell for cell in quickstart.cells for output in cell.get("outputs", ()) if "image/png" in output.get("data", ())
    ]
    assert len(drawn) >= 2
