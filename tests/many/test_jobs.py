"""A job: what it leaves, when it is finished, and that whatever happens to it is a result."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from support.rasters import TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg.many import jobs
from sn9reg.many.jobs import FAILED, REFUSED, REGISTERED, Job, Result, do, finished, run

HEAD = "sar_row,sar_col,optical_row,optical_col\n"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A pair that registers, with tie-points that are right to the pixel."""
    monkeypatch.chdir(tmp_path)
    optical, sar = textures()
    write_raster("o.tif", optical[None], TEXTURE_TRANSFORM, UTM)
    write_raster("s.tif", sar[None], TEXTURE_TRANSFORM, UTM)
    noise = np.random.default_rng(3).integers(1, 255, (1, 280, 320), dtype=np.uint8)
    write_raster("noise.tif", noise, TEXTURE_TRANSFORM, UTM)
    Path("t.csv").write_text(HEAD + "50,60,56,51\n150,160,156,151\n")
    Path("out").mkdir()
    return Job("a", "out", "o.tif", "s.tif", "t.csv", {"matcher": "structure"}, threads=1)


def contents():
    return sorted(path.name for path in Path("out").iterdir())


def test_a_registered_pair(job):
    result = do(job)
    assert (result.name, result.status, result.matcher) == ("a", REGISTERED, "structure")
    assert result.error_px < 1
    assert 99 < result.sn9_score <= 100
    assert 0 < result.inliers <= result.matches
    assert result.expected_error_px > 0
    assert result.seconds > 0
    assert 0.1 < result.memory_gib < 100
    assert contents() == ["a.json", "a.tif"]
    assert finished(job) == result
    with rasterio.open(job.offsets) as written:
        assert written.count == 2


def test_a_refused_pair_has_a_row_and_no_map(job):
    job = replace(job, sar="noise.tif")
    result = do(job)
    assert result.status == REFUSED
    assert result.reason
    assert result.expected_error_px is None
    assert result.error_px == pytest.approx(np.hypot(9, 6), abs=0.01)  # of zeros
    assert contents() == ["a.json"]
    assert finished(job) == result


def test_a_page_belongs_to_a_job_that_asks_for_one(job):
    job = replace(job, report=True, sigma=True)
    result = do(job)
    assert result.status == REGISTERED, result.reason
    assert contents() == ["a-report", "a.json", "a.tif"]
    page = (job.page / "report.html").read_text()
    assert "Registered, right to about" in page
    assert "what is left at the tie-points" in page.lower()
    with rasterio.open(job.offsets) as written:
        assert written.count == 3
    assert finished(job) == result
    shutil.rmtree(job.page)
    assert finished(job) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"optical": "none.tif"}, "none.tif: no such file"),
        ({"tiepoints": "none.csv"}, "none.csv: no such file"),
        ({"options": {"matcher": "nonsense"}}, "no matcher 'nonsense'"),
        ({"folder": "none"}, "its folder does not exist"),
    ],
)
def test_a_failure_is_a_result_and_leaves_nothing(job, change, reason):
    job = replace(job, **change)
    result = do(job)
    assert result.status == FAILED
    assert reason in result.reason
    assert result.matches is None
    assert finished(job) is None
    if change.get("tiepoints") is None:
        assert contents() == []


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


def test_a_finished_job_is_known_whatever_the_folder_and_the_threads(done):
    job, _ = done
    assert finished(job).matches == 5
    assert finished(replace(job, threads=7, overwrite=True)).matches == 5
    Path("out").rename("moved")
    assert finished(replace(job, folder="moved")).matches == 5


@pytest.mark.parametrize(
    "change",
    [{"sar": "noise.tif"}, {"tiepoints": None}, {"options": {"matcher": "hybrid"}}, {"seed": 1}, {"sigma": True},
     {"name": "b"}],
)  # fmt: skip
def test_other_inputs_or_options_are_another_job(done, change):
    job, _ = done
    assert finished(replace(job, **change)) is None


def test_an_input_that_changed_is_another_job(done):
    job, _ = done
    later = os.stat("s.tif").st_mtime_ns + 10**9
    os.utime("s.tif", ns=(later, later))
    assert finished(job) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"key": 3}', "\udcff"])
def test_a_row_that_cannot_be_read_is_no_result(done, content):
    job, _ = done
    job.row.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert finished(job) is None


def test_a_row_whose_map_is_gone_is_no_result(done):
    job, _ = done
    job.offsets.unlink()
    assert finished(job) is None


def test_what_was_begun_is_not_finished_and_may_be_begun_again(done):
    job, counted = done
    job.row.write_text(json.dumps({"key": job.key(), "status": "begun"}))
    assert finished(job) is None
    assert do(job).status == REGISTERED
    assert counted == ["a", "a"]


def test_files_of_others_are_kept_unless_asked_otherwise(done):
    job, counted = done
    other = replace(job, seed=9)
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


def test_a_process_of_its_own_gives_the_same(job):
    result = run(job)
    assert result.status == REGISTERED
    assert result.error_px < 1
    assert finished(job) == result


class Broken:
    """Something that ends the process that unpacks it."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ((os._exit, (7,)), "ended with exit code 7 before it had a result"),
        ((os.kill, (0, 0)), None),
    ],
)
def test_a_process_that_dies_is_a_result(job, how, reason):
    if reason is None:
        how, reason = (_kill_oneself, ()), "was ended by SIGKILL; was there enough memory?"
    result = run(replace(job, options={"matcher": Broken(how)}))
    assert (result.name, result.status) == ("a", FAILED)
    assert reason in result.reason
    assert result.seconds > 0


def _kill_oneself():
    os.kill(os.getpid(), 9)


def test_what_a_matcher_raises_is_a_reason(job, monkeypatch):
    sent = []

    class To:
        def send(self, result):
            sent.append(result)

        def close(self):
            sent.append("closed")

    def broken(_job):
        raise RuntimeError("of another  library")

    monkeypatch.setattr(jobs, "do", broken)
    monkeypatch.setattr(jobs, "_die_with_parent", lambda: None)
    jobs._send(job, To())
    assert sent == [Result("a", FAILED, "RuntimeError: of another library"), "closed"]


def test_an_interrupted_process_says_nothing(job, monkeypatch):
    def interrupted(_job):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "do", interrupted)
    monkeypatch.setattr(jobs, "_die_with_parent", lambda: None)
    jobs._send(job, None)


def test_memory_is_of_this_process_at_its_peak():
    before = jobs.peak_memory()
    block = np.ones(40 << 20)  # 320 MiB
    assert jobs.peak_memory() > before - 0.01
    assert jobs.peak_memory() > 0.3
    del block
    assert jobs.peak_memory() > 0.3
