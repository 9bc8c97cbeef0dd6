"""What the README says is so: its recipe works to the letter, its links lead somewhere, it names every command."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.rasters import SHIFT

import sn9reg
from sn9reg.cli import COMMANDS
from sn9reg.offsets import open_offsets

ROOT = Path(sn9reg.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_recipe_of_a_matcher_is_followed_to_the_letter(tmp_path, small_files):
    """A copy of the package, the README's file in the README's folder, and the README's option."""
    (recipe,) = re.findall(r"```python\n(.*?)```", README, re.S)
    (folder, name) = re.search(r"is one file in `(.+?)/`; this one, `(.+?)`, is whole", README).groups()
    (option,) = re.findall(r"`(--matcher \S+)` finds it by its name", README)
    shutil.copytree(ROOT / "sn9reg", tmp_path / "sn9reg", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / folder / name).write_text(recipe)

    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sn9reg", "align", *small_files, "--out", "d.tif", *option.split()]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with open_offsets(tmp_path / "d.tif") as offsets:
        field = offsets.read(offsets.grid.window)
    assert np.abs(np.median(field, axis=(1, 2)) - SHIFT).max() < 0.5


def test_the_python_that_is_shown_is_typed(tmp_path):
    """For a user's mypy, what the README calls has parameters and results, and no others."""
    pytest.importorskip("mypy")
    (recipe,) = re.findall(r"```python\n(.*?)```", README, re.S)
    (use,) = re.findall(r"^In Python:\n\n((?:(?: {4}.*)?\n)+)", README, re.M)
    more = 'reveal_type(registration)\nsn9reg.register("o.tif", "s.tif", speed=9)\n'
    # As for an installed package, its errors are silent; what it stands on takes minutes to read.
    skipped = "mypy-torch.*,pandas.*,scipy.*,numpy.*,pydantic.*,cv2.*,rasterio.*,affine.*,IPython.*"
    settings = "[mypy]\nignore_missing_imports = True\n[mypy-sn9reg.*]\nfollow_imports = silent\n"
    settings += f"[{skipped}]\nfollow_imports = skip\nfollow_imports_for_stubs = True\n"
    for name, text in (("mypy.ini", settings), ("recipe.py", recipe), ("use.py", textwrap.dedent(use) + more)):
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "mypy", "recipe.py", "use.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    assert 'Revealed type is "sn9reg.registration.Registration"' in said
    assert 'Unexpected keyword argument "speed"' in said
    assert "Found 1 error" in said, said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert links or page.name != "README.md"
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


def test_python_is_called_by_names_that_exist():
    texts = [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb"))]
    assert {name for text in texts for name in re.findall(r"sn9reg\.(\w+)\(", text)} <= set(sn9reg.__all__)


def test_every_command_is_in_the_table():
    assert set(re.findall(r"^\| `sn9reg (\w+)", README, re.M)) == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pipelines_that_are_named_are_there(page):
    named = set(re.findall(r"python -m (pipelines[.\w]*\w)", page.read_text(encoding="utf-8")))
    assert all((ROOT / f"{name.replace('.', '/')}.py").exists() for name in named), named


def test_it_is_three_screens_at_most():
    assert len(README.splitlines()) <= 150


def test_all_files_say_the_same_version_and_licence():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version("sn9reg")
    assert f'version = "{version("sn9reg")}"' in project
    assert citation["license"] == "Apache-2.0"
    assert 'license = "Apache-2.0"' in project
    assert f"## {version('sn9reg')}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
