"""pipelines.benchmark: its rows are commands of a user; the parts that compute rather than time."""

import json

from click.testing import CliRunner

from pipelines import benchmark, common


def test_a_simulated_scene_is_the_users_and_its_best_affine_leaves_its_parallax(scene):
    assert 1.5 < benchmark.best_affine(scene) < 40
    run = common.sn9reg("info", scene.offsets, "--json")
    assert (run.registered, run.seconds > 0, 0.01 < run.memory < 4) == (True, True, True)
    assert run.facts["width"] == 700


def test_rows_without_data_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(benchmark.ROWS, "half-empty", (None, lambda *_: [common.Row("what", ">= 1", "2")]))
    monkeypatch.setenv("SN9REG_DATA", str(tmp_path / "data"))

    def run(*options):
        arguments = ["--work", str(tmp_path / "work"), "--rows", "vhr,half-empty", *options]
        return CliRunner().invoke(benchmark.main, arguments)

    result = run()
    assert result.stdout == "| what | must | measured |\n|---|---|---|\n| what | >= 1 | 2 |\n"
    assert f"vhr: left out, {tmp_path}/data/vhr_tiepoints is not there" in result.stderr
    assert json.loads(run("--json").stdout) == [{"what": "what", "must": ">= 1", "measured": "2"}]
