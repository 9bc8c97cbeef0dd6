"""Many pairs: the manifest, what is done and what is not, and how it ends."""

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support.commands import refused, run

from sn9reg.errors import ConfigError, InputError
from sn9reg.many import batch, jobs
from sn9reg.many.batch import ENGINES, do_all, local, read_manifest
from sn9reg.many.jobs import FAILED, REFUSED, REGISTERED, Job, Result
from sn9reg.progress import listening
from sn9reg.raster.scene import PairFiles

TEMPLATE = Job("", "", PairFiles("", "", sar_bands=(2,)), options={"matcher": "structure"}, threads=1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "out"):
        Path(name).mkdir()
    return tmp_path


def manifest(text, name="data/m.csv"):
    Path(name).write_text(text)
    return name


def test_a_manifest_names_pairs_beside_it(folder):
    path = manifest("optical, sar ,tiepoints,name\no1.tif,s1.tif,,first\n sub/o2.tif , s2.tif,t.csv,\n")
    first = replace(TEMPLATE, name="first", folder="out", files=PairFiles("data/o1.tif", "data/s1.tif", sar_bands=(2,)))
    files = PairFiles("data/sub/o2.tif", "data/s2.tif", sar_bands=(2,))
    second = replace(first, name="o2", files=files, tiepoints="data/t.csv")
    assert read_manifest(path, "out", TEMPLATE) == [first, second]
    (job,) = read_manifest(manifest(f"\ufeffoptical,sar\n{folder}/o.tif,s.tif\n"), "out", TEMPLATE)
    assert job.files.optical == f"{folder}/o.tif"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optical\no.tif\n", "has the columns optical; a manifest has optical,sar"),
        ("optical,sar\n", "has a header and no pairs"),
        ("", "is no table"),
        ("optical,sar,matcher\no,s,m\n", "has the columns optical, sar, matcher; a manifest has"),
        ("optical,sar\no.tif,\n", "line 2: sar is missing"),
        ("optical,sar\no.tif,s.tif\no.tif,s.tif\n", "line 3: the same pair stands in line 2"),
        ("optical,sar\na/o.tif,s.tif\nb/O.tif,s.tif\n", "line 3: another pair of the name O stands in line 2"),
        ("optical,sar,name\no.tif,s.tif,a/b\n", "line 2: 'a/b' cannot be the name of files"),
        ("optical,sar,name\no.tif,s.tif,summary\n", "cannot be the name of files"),
    ],
)
def test_manifests_that_are_none(folder, text, message):
    with pytest.raises(InputError, match=rf"m\.csv.*{message}"):
        read_manifest(manifest(text), "out", TEMPLATE)
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        read_manifest("none.csv", "out", TEMPLATE)


# --- doing -----------------------------------------------------------------------------------------------------------


def some(count):
    return [replace(TEMPLATE, name=f"p{k}", folder="out", files=PairFiles(f"o{k}", f"s{k}")) for k in range(count)]


def test_results_come_in_the_order_of_the_manifest_and_what_is_finished_is_not_done_again(folder, monkeypatch):
    known = {"p0": Result("p0", REGISTERED, "before", matches=3), "p3": Result("p3", REFUSED, "before", matches=3)}
    monkeypatch.setattr(batch, "finished", lambda job: known.get(job.name))
    asked, counts = [], []

    def engine(given, _workers):
        """The last first; the summary grows with each."""
        before = len(pd.read_csv("out/summary.csv"))
        for count, job in enumerate(reversed(given), 1):
            asked.append(job.name)
            yield Result(job.name, {"p1": FAILED, "p2": REFUSED}.get(job.name, REGISTERED), "=so", matches=3)
            assert len(pd.read_csv("out/summary.csv")) == before + count

    with listening(counts.append):
        results = do_all(some(5), engine, 2)
    assert sorted(asked) == ["p1", "p2", "p4"]
    assert counts == [0.6, 0.8, 1.0]
    assert [result.reason for result in results] == ["before", "=so", "=so", "before", "=so"]
    table = pd.read_csv("out/summary.csv")
    assert list(table["reason"])[:2] == ["before", "'=so"]  # no spreadsheet computes it
    assert list(table["name"]) == [f"p{k}" for k in range(5)]
    assert list(table["status"]) == [REGISTERED, FAILED, REFUSED, REFUSED, REGISTERED]
    assert list(table["matches"]) == [3] * 5


def test_the_local_engine_does_so_many_at_once(folder, monkeypatch):
    now, most = set(), []

    def slow(job):
        now.add(job.name)
        most.append(len(now))
        time.sleep(0.05)
        now.discard(job.name)
        return Result(job.name, REGISTERED, "so")

    monkeypatch.setattr(batch, "run", slow)
    assert sorted(result.name for result in local(some(7), 3)) == [job.name for job in some(7)]
    assert max(most) == 3


def test_every_gpu_has_its_share_of_the_jobs(folder, monkeypatch):
    taken = {}
    monkeypatch.setattr(batch, "run", lambda job: taken.update({job.name: job.gpu}))
    for there, expected in ((0, [None] * 4), (1, [None] * 4), (3, [0, 1, 2, 0])):
        monkeypatch.setattr(batch, "gpus", lambda there=there: there)
        list(local(some(4), 2))
        assert [taken[job.name] for job in some(4)] == expected
    assert replace(TEMPLATE, gpu=1).key() == TEMPLATE.key()


def test_ray_that_is_missing_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'sn9reg\[ray\]'"):
        list(ENGINES["ray"](some(1), 1))


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(folder, small_files, monkeypatch, small_registration):
    """Pairs that are opened for real, in this process; `shy` ones are refused, others have a known registration."""

    def register(optical, sar, **_options):
        with PairFiles(optical, sar).open():
            verdict = replace(small_registration.verdict, registered="shy" not in sar)
            return replace(small_registration, verdict=verdict)

    monkeypatch.setattr("sn9reg.registration.register", register)
    monkeypatch.setattr(batch, "run", jobs.do)
    for name, path in zip(("o", "s", "shy"), (*small_files, small_files[1]), strict=True):
        shutil.copy(path, f"data/{name}.tif")
    Path("data/broken.tif").write_bytes(Path("data/s.tif").read_bytes()[:300])


def test_one_that_fails_does_not_stop_the_rest(pairs):
    path = manifest("optical,sar,name\no.tif,broken.tif,broken\no.tif,s.tif,good\no.tif,none.tif,none\n")
    result = run(f"batch {path} --out out --jobs 2 --sigma --json")
    assert result.exit_code == 1, result.output
    broken, good, none = json.loads(result.stdout)
    assert [row["status"] for row in (broken, good, none)] == [FAILED, REGISTERED, FAILED]
    assert "data/none.tif: no such file" in none["reason"]
    assert "broken.tif" in broken["reason"]
    assert {p.name for p in Path("out").iterdir()} == {"summary.csv", "good.tif", "good.json"}
    before = Path("out/good.tif").stat().st_mtime_ns
    manifest("optical,sar,name\no.tif,s.tif,good\n")
    again = run(f"batch {path} --out out --jobs 2 --sigma")
    assert again.exit_code == 0, again.output
    assert "good: registered, right to about" in again.stdout
    assert Path("out/good.tif").stat().st_mtime_ns == before


def test_a_refused_pair_is_an_answer(pairs):
    result = run("batch --out new/folder", manifest("optical,sar\no.tif,shy.tif\n"))
    assert result.exit_code == 3, result.output
    assert "o: refused; " in result.stdout
    assert list(pd.read_csv("new/folder/summary.csv")["status"]) == [REFUSED]


@pytest.mark.parametrize(
    ("rows", "more", "code", "message"),
    [
        (2, "--out out", 1, "the same pair"),
        (1, "--out data/m.csv", 1, "data/m.csv: cannot be made"),
        (1, "--out out --matcher nonesuch", 2, "no matcher 'nonesuch'"),
        (1, "--out out --device cuda:99", 2, "--device cuda:99: of GPUs, this machine has"),
        (1, "--out out --calibration data/s.tif", 1, "data/s.tif: is no calibration"),
    ],
)
def test_what_cannot_work_ends_in_one_line(pairs, rows, more, code, message):
    path = manifest("optical,sar\n" + "o.tif,s.tif\n" * rows)
    refused(f"batch {path} {more}", message, codes=(code,))
    assert not list(Path("out").iterdir())


# --- Ray -------------------------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_on_ray_a_killed_worker_loses_nothing_and_nothing_is_done_twice(folder, monkeypatch):
    """Two workers; the first pair's is killed in the middle, while the other goes on."""
    ray = pytest.importorskip("ray")
    log, go = folder / "out" / "log", folder / "out" / "go"

    def work(job):  # made here, so that Ray's workers need not find this file
        if found := jobs.finished(job):
            return found

        def say(what):
            with log.open("a") as target:
                target.write(f"{what} {job.name} {os.getpid()}\n")

        say("begin")
        while job.name == "p0" and not go.exists():
            time.sleep(0.05)
        result = Result(job.name, REGISTERED, "so")
        job.row.write_text(json.dumps({"key": job.key(), **vars(result)}))
        job.offsets.write_bytes(b"map")
        say("end")
        return result

    def said(start):
        """(name, process) of each line of the log that starts so."""
        lines = log.read_text().splitlines() if log.exists() else []
        return [tuple(line.split()[1:]) for line in lines if line.startswith(start)]

    monkeypatch.setattr(batch, "_unless_finished", work)
    given = [replace(job, folder=str(folder / "out")) for job in some(6)]
    with ThreadPoolExecutor(1) as pool:
        results = pool.submit(lambda: list(batch.on_ray(given, 2)))
        deadline = time.monotonic() + 120
        while not (said("begin p0") and said("end")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(int(said("begin p0")[0][1]), signal.SIGKILL)
        go.write_text("")
        names = [f"p{k}" for k in range(6)]
        found = sorted((result.name, result.status) for result in results.result(120))
    assert found == [(name, REGISTERED) for name in names]
    assert sorted(name for name, _ in said("end")) == names
    assert sorted(name for name, _ in said("begin")) == ["p0", *names]
    assert not ray.is_initialized()


def test_what_was_done_before_its_worker_died_is_not_done_again(folder, monkeypatch):
    (job,) = some(1)
    job.row.write_text(json.dumps({"key": job.key(), **vars(Result("p0", REFUSED, "so"))}))
    monkeypatch.setattr(batch, "do", lambda _job: pytest.fail("done twice"))
    assert batch._unless_finished(job) == Result("p0", REFUSED, "so")
