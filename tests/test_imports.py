"""What an import costs: each command and each matcher loads the libraries that it needs, and no others."""

import subprocess
import sys

LIBRARIES = {"timm", "kornia", "segmentation_models_pytorch", "torchvision", "skimage", "pandas", "lightning"}
FAMILIES = {f"sn9reg.matchers.{name}" for name in ("keypoints", "descriptors", "dual_encoder", "vismatch")}


def loaded_by(code):
    """The modules that a new Python has loaded after these lines."""
    code += "\nimport sys\nprint('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_a_registration_loads_no_library_of_networks_and_no_other_matcher():
    """The default matcher included. That matchers do not import each other is a contract of the linter."""
    code = "import sn9reg.cli.align, sn9reg.registration, sn9reg.matchers.base as base\nbase.make_matcher('hybrid')"
    loaded = loaded_by(code)
    assert loaded & (LIBRARIES | FAMILIES) == set()
    networks = {name for name in loaded if name.startswith("sn9reg.matchers.dense.networks.")}
    assert {name.rpartition(".")[2] for name in networks} == {"branches", "slim_unet", "table", "wide_unet"}


def test_what_needs_no_network_does_not_wait_for_torch():
    code = "from contextlib import suppress\nfrom sn9reg.cli import main, info, score"
    for arguments in (["--help"], ["info", "nothing.tif"], ["score", "--help"]):
        code += f"\nwith suppress(SystemExit):\n    main({arguments})"
    code += "\nfrom sn9reg.matchers.base import matcher_class\nwith suppress(Exception):\n    matcher_class('none')"
    assert "torch" not in loaded_by(code)
