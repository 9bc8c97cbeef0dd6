"""Several matchers on one pair: a table, pictures, and no matcher that ends the others."""

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from support.commands import refused, run
from support.grids import constant
from support.rasters import SHIFT, TEXTURE_TRANSFORM, UTM

from sn9reg.errors import InputError
from sn9reg.many import compare as module
from sn9reg.many.compare import compare, installed
from sn9reg.many.jobs import FAILED, REFUSED, REGISTERED, Job, Result, do
from sn9reg.matchers.base import make_matcher, matcher_classes
from sn9reg.matchers.dense.learned import matcher_of
from sn9reg.progress import listening
from sn9reg.raster.grid import Grid
from sn9reg.raster.scene import PairFiles

pytestmark = pytest.mark.usefixtures("small_pair")
JOB = Job("", "out", PairFiles("o.tif", "s.tif"), "t.csv", {"matcher_options": {"max_offset": 20.0}})


@pytest.fixture
def ran(monkeypatch):
    """Jobs that were run: `good` and `better` are right, `shy` was refused, any other fails."""
    given = []

    def run(job):
        given.append(job)
        name = job.options["matcher"]
        if name == "shy":
            return Result(job.name, REFUSED, "water", matcher=name, matches=4, inliers=0, seconds=1.0, memory_gib=0.5)
        if name not in ("good", "better:one"):
            return Result(job.name, FAILED, f"{name} <broke>", seconds=0.5)
        constant(Grid(TEXTURE_TRANSFORM, 200, 180, UTM), *SHIFT).write(job.offsets, overwrite=True)
        return Result(job.name, REGISTERED, "so", name, "affine", 50, 40, 1.25, 0.5, 99.5, 3.25, 1.5)

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(module, "check_options", lambda _options: None)  # these matchers are made up
    return given


def test_a_table_in_three_forms_and_pictures(ran):
    told = []
    names = ["good", "shy", "bad", "better:one"]
    with listening(told.append):
        results = compare(JOB, names, {"shy": {"depth": 3}})
    assert {0.25, 0.5, 0.75, 1.0} <= set(told)
    assert [result.name for result in results] == names
    assert [job.options["matcher"] for job in ran] == names
    assert [job.name for job in ran] == ["good", "shy", "bad", "better-one"]
    common = {"max_offset": 20.0}
    assert [job.options["matcher_options"] for job in ran] == [common, common | {"depth": 3}, common, common]
    table = pd.read_csv("out/compare.csv")
    assert list(table["matcher"]) == names
    assert list(table["status"]) == [REGISTERED, REFUSED, FAILED, REGISTERED]
    columns = "matcher,status,matches,inliers,expected_error_px,error_px,sn9_score,seconds,memory_gib,reason"
    assert ",".join(table.columns) == columns
    assert table["seconds"][0] == 3.25
    told = json.loads(Path("out/compare.json").read_text())
    rows = told.pop("results")
    assert told == {"left_out": [], "note": ""}
    assert [(row["name"], row["matches"], row["inliers"]) for row in rows] == [
        ("good", 50, 40), ("shy", 4, 0), ("bad", None, None), ("better:one", 50, 40),
    ]  # fmt: skip
    page = Path("out/compare.html").read_text()
    assert "bad &lt;broke&gt;" in page
    assert "<broke>" not in page
    assert len(re.findall(r'src="data:image/webp', page)) == 3
    assert not re.search("https?:", page)
    assert {p.name for p in Path("out").glob("*.png")} == {"good.png", "better-one.png", "without-registration.png"}
    before, after = (cv2.imread(f"out/{name}.png").astype(float) for name in ("without-registration", "good"))
    assert before.shape == after.shape == (180, 200, 3)
    edges = np.arange(25, 200, 25)  # of the tiles
    broken_before, broken = (np.abs(board[:, edges] - board[:, edges - 1]).mean() for board in (before, after))
    assert broken < 0.7 * broken_before


def test_of_several_sources_in_one_run_the_table_has_the_shares(ran, monkeypatch):
    shares = Result("a+b", REFUSED, "so", sources="a 90%, b 10%")
    monkeypatch.setattr(module, "finished", lambda job: shares if job.name == "a+b" else None)
    compare(JOB, ["shy", "a+b"])
    assert pd.read_csv("out/compare.csv")["sources"].tolist()[1:] == ["a 90%, b 10%"]
    assert "a 90%, b 10%" in Path("out/compare.html").read_text()


def test_without_tiepoints_there_are_no_errors_in_the_table_and_where_all_fail_there_is_a_page_too(ran):
    (result,) = compare(replace(JOB, tiepoints=None), ["bad"])
    assert result.status == FAILED
    assert not {"error_px", "sn9_score"} & set(pd.read_csv("out/compare.csv").columns)
    assert "bad &lt;broke&gt;" in Path("out/compare.html").read_text()


def test_a_matcher_that_is_finished_is_not_run_again(ran, monkeypatch):
    known = Result("good", REFUSED, "before")
    monkeypatch.setattr(module, "finished", lambda job: known if job.name == "good" else None)
    assert [result.reason for result in compare(JOB, ["good", "shy"])] == ["before", "water"]
    assert [job.name for job in ran] == ["shy"]


def test_installed_are_those_that_can_be_made_of_their_name_alone():
    names, left_out = installed()
    assert sorted([*names, *left_out]) == [n for n, c in matcher_classes().items() if not hasattr(c, "needs_variant")]
    for name in names:
        make_matcher(name)
    for name in left_out:
        with pytest.raises(InputError, match=f"no weights of {name} ship"):
            make_matcher(name)
    with_weights, without = installed({"mcgf": {"weights": "w.safetensors"}, "osmnet": {"template": 64}})
    assert (set(with_weights) - set(names), set(left_out) - set(without)) == ({"mcgf"}, {"mcgf"})


# --- the command -----------------------------------------------------------------------------------------------------


COMMAND = "compare o.tif s.tif --out out"


def test_the_command_runs_matchers(monkeypatch, small_registration):
    def register(matcher, matcher_options, **_options):
        make_matcher(matcher, **matcher_options)
        return small_registration

    monkeypatch.setattr("sn9reg.registration.register", register)
    monkeypatch.setattr(module, "run", do)
    matchers = "--matchers structure,mcgf,structure --matcher-option mcgf.weights=none.safetensors"
    result = run(COMMAND, "--tiepoints t.csv", matchers)
    assert result.exit_code == 0, result.output
    table = pd.read_csv("out/compare.csv").set_index("matcher")
    assert table["status"].to_dict() == {"structure": REGISTERED, "mcgf": FAILED}
    assert table["error_px"]["structure"] < 1
    assert "none.safetensors" in table["reason"]["mcgf"]
    assert "structure     registered  0." in result.stdout


def test_the_command_prints_json_and_fails_where_all_matchers_do(ran):
    result = run(COMMAND, "--matchers good,shy --json")
    assert [row["name"] for row in json.loads(result.stdout)["results"]] == ["good", "shy"]
    codes = [run(COMMAND, f"--matchers {names} --overwrite").exit_code for names in ("bad,shy", "bad,worse")]
    assert codes == [0, 1]


def test_what_has_no_weights_is_left_out_and_one_line_everywhere_says_so(ran, monkeypatch, caplog):
    monkeypatch.setattr(module, "matcher_classes", lambda: {"good": object, "lost": matcher_of("mcgf"), "shy": object})
    result = run(COMMAND, "--json")
    assert result.exit_code == 0, result.output
    assert [job.name for job in ran] == ["good", "shy"]
    (line,) = caplog.messages  # the command line prints them on stderr
    assert "no weights of them ship: lost; " in line
    assert "python -m pipelines.train pipelines/training/lost.yaml (see docs/how-it-works.md#training)" in line
    assert json.loads(result.stdout)["note"] == line
    assert json.loads(result.stdout) == json.loads(Path("out/compare.json").read_text())
    assert json.loads(result.stdout)["left_out"] == ["lost"]
    assert line in Path("out/compare.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--matcher-option weights=3", 2, "'weights' is not MATCHER.NAME"),
        ("--matcher-option mcgf.weights=3", 2, "mcgf is none of the matchers compared"),
        ("--matchers ,", 2, "--matchers names none"),
        ("--tiepoints none.csv", 2, "'none.csv' does not exist"),
        ("--tiepoints o.tif", 1, "o.tif: is not text"),
        ("--sar-bidx 7", 1, "has no band 7"),
        ("--out t.csv", 1, "t.csv: is a file; a comparison is a folder"),
        ("--matchers structure,nonesuch", 2, "no matcher 'nonesuch'"),
        ("--matchers structure:fast", 2, "has no variants"),
        ("--matcher-option structure.name=1", 2, "there is no option name"),
        ("--matchers structure,vismatch", 2, "it is many: name one"),
    ],
)
def test_what_cannot_work_is_known_before_any_matcher_is_run(monkeypatch, arguments, code, message):
    monkeypatch.setattr(module, "run", lambda _job: pytest.fail("run"))
    refused(f"{COMMAND} --matchers structure {arguments}", message, codes=(code,))
