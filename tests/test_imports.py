"""What an import costs: each command and each matcher loads the libraries that it needs, and no others."""

import subprocess
import sys

import pytest

import sn9reg.matchers.base as base

LIBRARIES = {"timm", "kornia", "segmentation_models_pytorch", "torchvision", "skimage", "pandas", "lightning"}
FAMILIES = {"keypoints", "descriptors", "dual_encoder", "vismatch"}


def loaded_by(code):
    """The modules that a new Python has loaded after these lines."""
    lines = f"import sys\n{code}\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_a_registration_loads_no_library_of_networks():
    """The default matcher included."""
    code = "import sn9reg.registration, sn9reg.matchers.base as base\nbase.make_matcher('hybrid')"
    loaded = loaded_by(code)
    assert loaded & LIBRARIES == set()
    assert {f"sn9reg.matchers.{family}" for family in FAMILIES} & loaded == set()
    networks = {name for name in loaded if name.startswith("sn9reg.matchers.dense.networks.")}
    assert {name.rpartition(".")[2] for name in networks} == {"branches", "slim_unet", "table"}


@pytest.mark.parametrize("name", ["keypoints", "descriptors", "dual-encoder"])
def test_a_matcher_loads_no_other_familys_folder(name):
    loaded = loaded_by(f"import sn9reg.matchers.base as base\nbase.make_matcher({name!r})")
    assert {family for family in FAMILIES if f"sn9reg.matchers.{family}" in loaded} == {name.replace("-", "_")}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["info", "nothing.tif"], ["score", "--help"]])
def test_the_command_line_does_not_wait_for_torch(arguments):
    """Imported alone, and told what needs no network."""
    call = f"try:\n    main({arguments})\nexcept SystemExit:\n    pass" if arguments else ""
    loaded = loaded_by(f"from sn9reg.cli import main, info, score\n{call}")
    assert "torch" not in loaded


def test_names_are_listed_without_torch():
    code = "import sn9reg.matchers.base as base\nprint(base.matcher_names())"
    assert "torch" not in loaded_by(code)
    assert set(base.matcher_names()) == base.matcher_classes().keys()
