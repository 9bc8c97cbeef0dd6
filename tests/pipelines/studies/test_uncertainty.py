"""pipelines.studies.uncertainty: its tables and its diagram, of made-up matches."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pipelines.studies import uncertainty as study

AUROC = ("auroc", "auroc_low", "auroc_high")
pytestmark = pytest.mark.study


def test_tables_and_diagram_are_written(tmp_path, monkeypatch):
    configs, random = [], np.random.default_rng(0)
    made = (list(random.uniform(0, 6, (2, 50))), list(random.random((2, 50))), [60, 60], ["urban", "forest"])
    matched = study.Matched(*made)
    monkeypatch.setattr(study, "trained", lambda config, folder: configs.append(config) or folder)
    monkeypatch.setattr(study, "pair_files", lambda folder: ["a", "b"])
    for name in ("load_dual_encoder", "fused"):
        monkeypatch.setattr(study, name, lambda network=None: network)
    monkeypatch.setattr(study, "match_folder", lambda network, files, passes: matched)
    monkeypatch.setattr(study, "apart", lambda *_: {"ms": 1.5, "GiB": 2.0})
    result = CliRunner().invoke(study.main, ["pairs", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert [config.pretraining.steps > 0 for config in configs] == [False] * 4 + [True] * 2
    assert [config.aleatoric for config in configs] == [False, True, False, True, True, True]
    assert json.loads((tmp_path / "ablation.json").read_text()) == dict.fromkeys(study.ROWS, matched.row())
    assert (tmp_path / "modes.md").read_text().splitlines()[2] == "| base | 1.500 | 2.000 |"
    assert f"{matched.row()['ece']:.3f}" in (tmp_path / "reliability.md").read_text()
    assert (tmp_path / "reliability.png").stat().st_size > 5000
    sure, low, high = (json.loads((tmp_path / "reliability.json").read_text())["0 passes"][k] for k in AUROC)
    assert 0 < low < sure < high < 1


def test_an_interval_is_as_wide_as_pairs_differ():
    same = study.Matched([np.array([1.0, 9.0])] * 9, [np.array([0.9, 0.1])] * 9, [2] * 9, ["x"] * 9)
    one = same._replace(errors=[np.array([1.0, 9.0])] * 5 + [np.array([9.0, 1.0])] * 4)
    for matched, wide in ((same, False), (one, True)):
        low, high = matched.interval(lambda sure, off: study.auroc(sure, off <= 3))
        assert (low <= matched.row()["auroc"] <= high, high - low > 0.2) == (True, wide)
    assert (same.row()["spearman"], same.row()["auroc"]) == (pytest.approx(-1), 1)
