"""The page: everything in one file, from the library, from `sn9reg report` and from `sn9reg align --report`."""

import base64
import json
import re
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.commands import contents, refused, run
from support.grids import constant
from support.rasters import SHIFT, TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg.errors import ConfigError, OutputError
from sn9reg.raster.grid import Grid
from sn9reg.report import Place, Run, write_report
from sn9reg.report import page as module
from sn9reg.report.page import _sentence
from sn9reg.tiepoints import TiePoints

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.usefixtures("_blank_figures"),
]
GRID = Grid(TEXTURE_TRANSFORM, 200, 180, UTM)
FACTS = {"registered": "yes", "reason": "edges < agree", "expected_error_px": "1.26", "optical": "o.tif"}


def offsets(dx=SHIFT[0], dy=SHIFT[1], **facts):
    return constant(GRID, dx, dy, 0.8, facts=FACTS | {"version": "0.1.0", "calibrated": "yes"} | facts)


def points(n=20, off=0.0):
    xy = np.random.default_rng(0).uniform(30, 150, (n, 2))
    return TiePoints(xy, xy + SHIFT + [off, 0.0], inlier=np.arange(n) % 4 > 0)


class Reader:
    """What a page refers to, its tables, and its text."""

    def __init__(self, path):
        self.html = Path(path).read_text(encoding="utf-8")
        self.ids = set(re.findall(r'\bid="([^"]+)"', self.html))
        self.sources = re.findall(r'\b(?:src|href|action|srcset|data)="([^"]+)"', self.html)
        self.text = unescape(re.sub("<[^>]+>", "", self.html))
        self.tables = {}
        for name, body in re.findall(r'<table id="(\w+)">(.*?)</table>', self.html, re.S):
            rows = re.findall("<tr>.*?</tr>", body, re.S)
            cells = [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
            self.tables[name] = [list(map(unescape, row)) for row in cells]


def test_one_page_holds_everything_the_same_each_time_and_the_figures_lie_beside_it(small_pair):
    given = {"tiepoints": points(off=2.0), "matches": points(), "places": [Place("here", 100, 90)]}
    run = Run("sn9reg align 'a b.tif'", {"match": 12.34, "fit": 0.5})
    page, again = (write_report(name, small_pair, offsets(), run=run, **given) for name in ("out", "again"))
    assert page == Path("out/report.html")
    assert page.read_bytes() == again.read_bytes()
    names = {"before_after", "arrows", "offsets", "matches", "residuals"}
    assert contents("out").keys() == {"report.html", *(f"{name}.png" for name in names)}
    found = Reader(page)
    assert {source[:5] for source in found.sources} == {"data:"}
    assert names <= found.ids
    assert not re.search("https?:", found.html)
    assert "Registered, right to about 1.3 optical px: edges < agree." in found.text
    assert "edges &lt; agree" in found.html
    assert "sn9reg align 'a b.tif'" in found.text
    assert ["match", "12.3 s"] in found.tables["times"]
    scores = {row[0]: row[1:] for row in found.tables["scores"][1:]}
    assert scores["mean, px"] == [f"{np.hypot(SHIFT[0] + 2, SHIFT[1]):.2f}", "2.00"]
    assert scores["mean, m"][1] == "1.00"
    numbers, length = dict(found.tables["numbers"]), np.hypot(*SHIFT)
    assert numbers["largest offset"] == f"{length:.2f} px, {length / 2:.2f} m"
    assert numbers["median sigma"] == "0.80 px, 0.40 m"
    assert numbers["pixels without an offset"] == "0.0%"
    assert dict(found.tables["versions"])["offset map made by sn9reg"] == "0.1.0"
    assert dict(found.tables["facts"])["expected error px"] == "1.26"
    shown = json.loads(re.search(r'id="data">(.*?)</script>', found.html, re.S)[1])
    assert [view["name"] for view in shown] == [
        "the whole scene", "here", "the middle", "the largest offset", "where the map is least sure",
        "the worst tie-point",
    ]  # fmt: skip
    for view in shown:
        for uri in view["layers"].values():
            content = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
            picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            assert picture.shape == (view["height"], view["width"], 3)
            assert picture.std() > 5
    assert shown[0]["where"] == "columns 0 to 199, rows 0 to 179"


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"expected_error_px": "2.04"}, "Registered, right to about 2.0 optical px: so."),
        (
            {"expected_error_px": "2", "calibrated": "no"},
            "Registered, right to about 2.0 optical px (not calibrated): so.",
        ),
        ({}, "Registered: so."),
        ({"expected_error_px": "abc"}, "Registered: so."),
        ({"registered": "no", "expected_error_px": "nan"}, "Not registered: so."),
    ],
)
def test_the_verdict_is_one_sentence(facts, sentence):
    assert _sentence({"registered": "yes", "reason": "so"} | facts) == sentence
    assert _sentence({}).endswith("does not say whether its pair was registered: it was made by another program.")


def test_less_is_shown_of_less_and_files_of_others_are_kept_unless_asked_otherwise(small_pair):
    Path("out").mkdir()
    for name in ("mine.txt", "matches.png"):
        Path("out", name).write_text("mine")
    with pytest.raises(OutputError, match=r"matches\.png: exists; use --overwrite"):
        write_report("out", small_pair, offsets())
    assert contents("out").keys() == {"mine.txt", "matches.png"}
    page = write_report("out", small_pair, offsets(optical="<script>alert(1)</script>"), overwrite=True)
    figures = {"before_after.png", "arrows.png", "offsets.png"}
    assert contents("out").keys() == figures | {"mine.txt", "report.html"}
    found = Reader(page)
    assert "scores" not in found.tables
    assert not {"matches", "residuals", "command", "times"} & found.ids
    assert "<script>alert" not in found.html
    with pytest.raises(OutputError, match="exists; use --overwrite"):
        write_report("out", small_pair, offsets(0, 0))
    assert page.read_text(encoding="utf-8") == found.html


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_what_draws_it_one_line_says_so(small_pair, monkeypatch, missing):
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(ConfigError, match=rf"a report needs {missing}: pip install 'sn9reg\[report\]'"):
        write_report("out", small_pair, offsets())


def test_pictures_become_worse_before_a_page_becomes_too_large(small_pair, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "_shown", lambda _view, quality: (asked.append(quality), "x" * 30_000 * quality)[1])
    monkeypatch.setattr(module, "_LARGEST", 4_000_000)
    assert write_report("out", small_pair, offsets()).stat().st_size < 4_000_000
    assert list(dict.fromkeys(asked)) == [85, 60, 30]


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "message"), [("file", "is a file; a report is a folder"), ("none/out", "its folder does not exist")]
)
def test_where_nothing_can_be_written_nothing_is_begun(small_pair, monkeypatch, target, message):
    for work in ("sn9reg.report.page.coarse_field", "sn9reg.registration.register"):
        monkeypatch.setattr(work, lambda *_, **__: pytest.fail("work was begun"))
    Path("file").write_text("")
    with pytest.raises(OutputError, match=message):
        write_report(target, small_pair, offsets())
    refused(f"align o.tif s.tif --out d.tif --report {target}", message)


def test_report_from_files(small_pair):
    offsets().write("offsets.tif")
    result = run("report offsets.tif o.tif s.tif --tiepoints t.csv --matches t.csv --at 100,80 --out r --json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"page": str(Path("r/report.html"))}
    found = Reader("r/report.html")
    assert {row[0]: row[1:] for row in found.tables["scores"][1:]}["mean, px"][1] == "0.00"
    assert {"matches", "residuals", "command"} <= found.ids
    assert "column 100, row 80" in found.html


def test_report_of_sixteen_bits_in_one_band_in_a_pixel_frame(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    optical, sar = textures(120, 100)
    write_raster("o.png", (optical.astype(np.uint16) * 200)[None])
    write_raster("s.png", sar[None])
    constant(Grid.pixel_frame(120, 100), *SHIFT, facts={"frame": "pixel"}).write("d.tif")
    refused("report d.tif o.png s.png --out r", "use --pixel-frame")
    result = run("report d.tif o.png s.png --out r --pixel-frame")
    assert result.exit_code == 0, result.output
    numbers = dict(Reader("r/report.html").tables["numbers"])
    assert numbers["largest offset"] == f"{np.hypot(*SHIFT):.2f} px"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("none.tif o.tif s.tif", 1, "none.tif: no such file"),
        ("offsets.tif none.tif s.tif", 1, "none.tif: no such file"),
        ("nan.tif o.tif s.tif", 1, "nan.tif: holds no offset, only NaN"),
        ("o.tif o.tif s.tif --tiepoints none.csv", 1, "none.csv: no such file"),
        ("offsets.tif o.tif s.tif --at 7", 2, "a place is COLUMN,ROW"),
        ("offsets.tif o.tif s.tif --at 500,3", 2, "place 500,3 lies outside the optical image"),
        ("offsets.tif o.tif s.tif --pixel-frame", 2, "leave --pixel-frame out"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_no_folder(small_pair, arguments, code, message):
    offsets(np.nan, np.nan, frame="map").write("nan.tif")
    offsets(frame="map").write("offsets.tif")
    refused(f"report {arguments} --out r", message, codes=(code,))


@pytest.mark.parametrize("registered", [True, False])
def test_align_writes_the_report_too_and_shows_why_it_refused(small_pair, registered_as, registered):
    registered_as(registered)
    result = run("align o.tif s.tif --out d.tif --report r")
    assert result.exit_code == (0 if registered else 3), result.output
    assert Path("d.tif").exists() == registered
    found = Reader("r/report.html")
    assert ("Registered, right to about" if registered else "Not registered: ") in found.text
    assert {"matches", "command"} <= found.ids
    assert [row[0] for row in found.tables["times"]] == ["open", "match", "fit", "judge"]
    assert ("where the map is least sure" in found.text) == registered
