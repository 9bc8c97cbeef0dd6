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
    """A notebook and its cells of code."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a notebook as its user would: how many pictures it has, and what its variables were asked for."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    empty = tmp_path / "empty"
    empty.mkdir()

    def execute(name):
        notebook, cells = read(name)
        question = f"import json\nprint(json.dumps({ASKED[name]}))"
        notebook.cells.append(nbformat.v4.new_code_cell(question))
        where = {"metadata": {"path": str(empty)}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
        assert not list(empty.iterdir()), "it left something where it was opened"
        pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
        return pictures, json.loads(notebook.cells[-1].outputs[0].text)

    return execute


def test_every_notebook_is_run_here_and_stored_without_results():
    assert sorted(ASKED) == sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    for name in ASKED:
        notebook, cells = read(name)
        nbformat.validate(notebook)
        assert len(cells) >= 3
        assert all((cell.outputs, cell.execution_count) == ([], None) for cell in cells), name


def test_the_quickstart_registers_its_pair(run):
    pictures, found = run("01_quickstart")
    assert found["after"] < 0.5 * found["before"]
    assert (found["page"], pictures) == (True, 1)


def test_the_comparison_has_a_row_of_each_and_the_reason_of_what_failed(run):
    pictures, rows = run("02_compare_backends")
    expected = {"hybrid": "registered", "keypoints": "registered", "mcgf": "failed"}
    assert {name: row["status"] for name, row in rows.items()} == expected
    assert "weights" in rows["mcgf"]["reason"]
    assert all(rows[name]["error_px"] < 20 for name in ("hybrid", "keypoints"))
    assert pictures == 1


def test_the_training_gives_weights_that_are_used_and_are_no_better_than_those_that_ship(run):
    _, found = run("03_train_a_matcher")
    assert found["own"]
    shipped, trained = (found["rows"][name] for name in ("as shipped", "20 steps"))
    assert shipped["registered"]
    assert shipped["error_px"] < trained["error_px"]
    assert shipped["inliers"] > trained["inliers"]


def test_the_submission_meets_the_contest_and_scores(run):
    _, found = run("04_sn9_from_scratch")
    assert len(found["checks"]) == 2
    assert all(all(checks.values()) for checks in found["checks"].values())
    assert found["score"]["after"] > 90 > found["score"]["before"]
