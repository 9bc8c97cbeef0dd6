"""What an import costs: each command and each matcher loads the libraries that it needs, and no others."""

import subprocess
import sys

import pytest

import sn9reg.matchers.base as base

LIBRARIES = {"timm", "kornia", "segmentation_models_pytorch", "torchvision", "skimage", "pandas", "lightning"}
FAMILIES = {f"sn9reg.matchers.{name}" for name in ("keypoints", "descriptors", "dual_encoder", "vismatch")}


def run_python(code):
    """What a new Python prints."""
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code):
    """The modules that a new Python has loaded after these lines."""
    return set(run_python(f"{code}\nprint('loaded:', *sys.modules)").rpartition("loaded:")[2].split())


def test_a_registration_loads_no_library_of_networks():
    """The default matcher included."""
    code = "import sn9reg.cli.align, sn9reg.registration, sn9reg.matchers.base as base\nbase.make_matcher('hybrid')"
    loaded = loaded_by(code)
    assert loaded & LIBRARIES == set()
    assert loaded & FAMILIES == set()
    networks = {name for name in loaded if name.startswith("sn9reg.matchers.dense.networks.")}
    assert {name.rpartition(".")[2] for name in networks} == {"branches", "slim_unet", "table"}


def test_a_matcher_loads_no_other_familys_folder():
    """One after the other in one Python: that the folders do not import each other is a contract of the linter."""
    code = "from sn9reg.matchers.base import matcher_class"
    for name in ("keypoints", "descriptors", "dual-encoder", "vismatch"):
        code += f"\nmatcher_class({name!r})\nprint('families:', *(m for m in sys.modules if m in {FAMILIES}))"
    done = run_python(code)
    lines = [line.split()[1:] for line in done.splitlines() if line.startswith("families:")]
    assert [len(line) for line in lines] == [1, 2, 3, 4]


COMMAND = "from sn9reg.cli import main, info, score\ntry:\n    main({})\nexcept SystemExit:\n    pass"
COMMANDS = [COMMAND.format(arguments) for arguments in (["--help"], ["info", "nothing.tif"], ["score", "--help"])]


@pytest.mark.parametrize("code", [*COMMANDS, "from sn9reg.matchers.base import matcher_names\nmatcher_names()"])
def test_what_needs_no_network_does_not_wait_for_torch(code):
    assert "torch" not in loaded_by(code)


def test_every_matcher_is_listed():
    assert set(base.matcher_names()) == base.matcher_classes().keys()
