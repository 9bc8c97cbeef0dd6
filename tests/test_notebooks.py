"""The notebooks: stored without results, and run from top to bottom, in an empty folder, to results that hold."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.notebook
FOLDER = Path(__file__).parents[1] / "notebooks"
# Notebook -> what its variables are asked for in the end, as JSON.
ASKED = {
    "01_quickstart": "{'before': before['mean_px'], 'after': after['mean_px'], 'page': page.is_file()}",
    "02_compare_backends": "json.loads(table.to_json(orient='index'))",
    "03_train_a_matcher": "{'own': make_matcher('slim-unet', weights=str(weights)).own_weights, 'rows': rows}",
    "04_sn9_from_scratch": "{'checks': checks, 'score': dict(final)}",
}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a notebook as its user would, and returns it, executed, and what its variables were asked for."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    empty = tmp_path / "empty"
    empty.mkdir()

    def execute(name):
        notebook = read(name)
        question = f"import json\nprint(json.dumps({ASKED[name]}))"
        notebook.cells.append(nbformat.v4.new_code_cell(question))
        where = {"metadata": {"path": str(empty)}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
        assert not list(empty.iterdir()), "it left something where it was opened"
        return notebook, json.loads(notebook.cells[-1].outputs[0].text)

    return execute


def pictures(notebook):
    return sum("image/png" in output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs)


def test_every_notebook_is_run_here():
    assert sorted(ASKED) == sorted(path.stem for path in FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", ASKED)
def test_a_notebook_is_valid_and_stored_without_results(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert len(code_cells(notebook)) >= 3
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_the_quickstart_registers_its_pair(run):
    notebook, found = run("01_quickstart")
    assert found["after"] < 0.5 * found["before"]
    assert found["page"]
    assert pictures(notebook) == 1


def test_the_comparison_has_a_row_of_each_and_the_reason_of_what_failed(run):
    notebook, rows = run("02_compare_backends")
    assert {name: row["status"] for name, row in rows.items()} == {
        "hybrid": "registered",
        "structure": "registered",
        "mcgf": "failed",
    }
    assert "weights" in rows["mcgf"]["reason"]
    assert all(rows[name]["error_px"] < 20 for name in ("hybrid", "structure"))
    assert pictures(notebook) == 1


def test_the_training_gives_weights_that_are_used_and_are_no_better_than_those_that_ship(run):
    _, found = run("03_train_a_matcher")
    assert found["own"]
    rows = found["rows"]
    assert rows["as shipped"]["registered"]
    assert rows["as shipped"]["error_px"] < rows["20 steps"]["error_px"]
    assert rows["as shipped"]["inliers"] > rows["20 steps"]["inliers"]


def test_the_submission_meets_the_contest_and_scores(run):
    _, found = run("04_sn9_from_scratch")
    assert len(found["checks"]) == 2
    assert all(all(checks.values()) for checks in found["checks"].values())
    assert found["score"]["after"] > 90 > found["score"]["before"]
