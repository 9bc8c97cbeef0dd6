"""pipelines.speed: whose code is run, and what the table says."""

import click
import pytest

from pipelines import speed
from pipelines.common import Run, sn9reg


def test_the_code_of_another_tree_is_run(tmp_path):
    (tmp_path / "sn9reg").mkdir()
    (tmp_path / "sn9reg/__main__.py").write_text("import sys; print('of the tree', sys.argv[1:])")
    assert sn9reg("info", tree=tmp_path).printed == "of the tree ['-q', 'info']\n"
    assert "of the tree" not in sn9reg("--version").printed


def test_a_revision_that_there_is_not_is_named(tmp_path):
    with pytest.raises(click.ClickException, match="--against nonesuch: "):
        speed.laid_out("nonesuch", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_row_has_medians_and_their_share_of_those_before():
    def runs(*seconds):
        return [Run(s, 2 * s, 0.5, True, "") for s in seconds]

    before = runs(10, 30, 11)
    assert speed.row("500", "here", runs(4, 9, 5.5), before) == ("500", "here", "5.5", "11.0", "0.50", "0.50, 0.50")
    assert speed.row("500", "rev", before, before) == ("500", "rev", "11.0", "22.0", "0.50", "")
