"""A job: what it leaves, when it is finished, and that whatever happens to it is a result."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import rasterio
from support.commands import contents

from sn9reg.many import jobs
from sn9reg.many.jobs import FAILED, REFUSED, REGISTERED, Job, Result, do, finished, run
from sn9reg.matchers.dense.hybrid import HybridMatcher
from sn9reg.matchers.dense.structure import StructureMatcher
from sn9reg.raster.scene import PairFiles


@pytest.fixture
def job(small_pair):
    """A pair that registers, with tie-points that are right to the pixel."""
    Path("out").mkdir()
    options = {"matcher": "structure", "matcher_options": {"max_offset": 10.0}}
    return Job("a", "out", small_pair, "t.csv", options, threads=1)


def test_a_registered_pair(job, registered_as):
    registered_as(True)
    assert contents("out") == {}
    result = do(job)
    assert (result.name, result.status, result.matcher) == ("a", REGISTERED, "structure")
    assert result.error_px < 1
    assert 99 < result.sn9_score <= 100
    assert 0 < result.inliers <= result.matches
    assert min(result.expected_error_px, result.seconds) > 0
    assert 0.1 < result.memory_gib < 100
    assert contents("out").keys() == {"a.json", "a.tif"}
    assert finished(job) == result
    assert rasterio.open(job.offsets).count == 2


def test_a_refused_pair_has_a_row_and_no_map(job, registered_as):
    refused = registered_as(False)
    result = do(replace(job, sigma=True))
    assert (result.status, result.reason, result.expected_error_px) == (REFUSED, refused.verdict.reason, None)
    assert result.error_px == pytest.approx(np.hypot(9, 6), abs=0.01)  # of zeros
    assert contents("out").keys() == {"a.json"}
    assert finished(replace(job, sigma=True)) == result


@pytest.mark.usefixtures("_blank_figures")
def test_a_page_belongs_to_a_job_that_asks_for_one(job, registered_as):
    registered_as(True)
    job = replace(job, report=True, sigma=True)
    result = do(job)
    assert result.status == REGISTERED, result.reason
    assert contents("out").keys() == {"a-report", "a.json", "a.tif"}
    page = (job.page / "report.html").read_text()
    assert "Registered, right to about" in page
    assert "what is left at the tie-points" in page.lower()
    assert rasterio.open(job.offsets).count == 3
    assert finished(job) == result
    shutil.rmtree(job.page)
    assert finished(job) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"files": PairFiles("none.tif", "s.tif")}, "none.tif: no such file"),
        ({"files": PairFiles("o.tif", "s.tif", sar_bands=(7,))}, "has no band 7"),
        ({"options": {"matcher": "nonsense"}}, "no matcher 'nonsense'"),
        ({"folder": "none"}, "its folder does not exist"),
        ({"tiepoints": "none.csv"}, "none.csv: no such file"),
        ({"options": {"calibration": "none.json"}}, "none.json: no such file"),
    ],
)
def test_a_failure_is_a_result_before_the_work_and_leaves_nothing(job, change, reason, monkeypatch):
    monkeypatch.setattr(HybridMatcher, "match", lambda *_: pytest.fail("too late"))
    monkeypatch.setattr(StructureMatcher, "match", lambda *_: pytest.fail("too late"))
    failing = replace(job, **change)
    result = do(failing)
    assert (result.status, result.matches, finished(failing)) == (FAILED, None, None)
    assert reason in result.reason
    assert contents("out") == {}


@pytest.fixture
def done(job, monkeypatch):
    """The job with a result, in no time; counts how often work was done."""
    counted = []

    def registered(this):
        counted.append(this.name)
        this.offsets.write_bytes(b"map")
        return {"status": REGISTERED, "reason": "so", "matches": 5}

    monkeypatch.setattr(jobs, "_registered", registered)
    assert do(job).status == REGISTERED
    return job, counted


def test_a_finished_job_is_known_whatever_the_folder_and_the_threads_by_its_inputs_and_options(done):
    job, _ = done
    assert finished(replace(job, threads=7, overwrite=True)).matches == 5
    Path("out").rename("moved")
    job = replace(job, folder="moved")
    assert finished(job).matches == 5
    files = [PairFiles("s.tif", "o.tif"), PairFiles("o.tif", "s.tif", sar_nodata=7)]
    others = {"tiepoints": None, "options": {"matcher": "hybrid"}, "sigma": True, "name": "b"}
    for name, value in (("files", files[0]), ("files", files[1]), *others.items()):
        assert finished(replace(job, **{name: value})) is None


def test_a_row_without_its_input_map_or_content_is_no_result_and_what_was_begun_may_be_begun_again(done):
    job, counted = done
    good, begun = job.row.read_bytes(), json.dumps({"key": job.key(), "status": "begun"}).encode()
    for content in (b"", b"{", b"[]", b"{}", b'{"key": 3}', b"\xff", begun):
        job.row.write_bytes(content)
        assert finished(job) is None
    assert do(job).status == REGISTERED
    assert counted == ["a", "a"]
    job.row.write_bytes(good)
    job.offsets.rename("map")
    assert finished(job) is None
    Path("map").rename(job.offsets)
    assert finished(job) is not None
    os.utime("s.tif", ns=(1, 1))
    assert finished(job) is None


def test_files_of_others_are_kept_unless_asked_otherwise(done):
    job, counted = done
    other = replace(job, sigma=True)
    before = job.row.read_bytes()
    result = do(other)
    assert result.status == FAILED
    assert "use --overwrite" in result.reason
    assert job.row.read_bytes() == before
    assert do(replace(other, overwrite=True)).status == REGISTERED
    Path("out/b.tif").write_text("a user's")
    assert do(replace(job, name="b")).status == FAILED
    assert Path("out/b.tif").read_text() == "a user's"
    assert counted == ["a", "a"]


# --- in a process of its own -----------------------------------------------------------------------------------------


def test_a_process_of_its_own_registers(job):
    result = run(job)
    assert result.status == REGISTERED, result.reason
    assert result.error_px < 1
    assert finished(job) == result


class Broken:
    """Something that ends the process that unpacks it."""

    def __init__(self, *how):
        self.how = how

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ((os._exit, (7,)), "ended with exit code 7 before it had a result"),
        ((signal.raise_signal, (signal.SIGKILL,)), "was ended by SIGKILL; was there enough memory?"),
    ],
)
def test_a_process_that_dies_is_a_result(job, how, reason):
    result = run(replace(job, options={"matcher": Broken(*how)}))
    assert (result.name, result.status) == ("a", FAILED)
    assert reason in result.reason
    assert result.seconds > 0


def test_what_a_matcher_raises_is_a_reason_and_an_interrupt_is_none(job, monkeypatch):
    monkeypatch.setattr(jobs, "_end_when_asked", lambda: None)
    broken = Result("a", FAILED, "RuntimeError: of another library")
    for error, sent in ((RuntimeError("of another  library"), [broken]), (KeyboardInterrupt(), [])):
        to = Mock()
        monkeypatch.setattr(jobs, "do", Mock(side_effect=error))
        jobs._send(job, to)
        assert [call.args[0] for call in to.send.call_args_list] == sent
        assert to.close.called == bool(sent)


def test_memory_is_of_this_process_at_its_peak():
    block = np.ones(10 << 20)  # 80 MiB
    peak = jobs.peak_memory()
    del block
    assert 0.08 < peak < jobs.peak_memory() + 0.01
