"""pipelines.studies.sn9_baseline: the paper's tables for scenes with and without imagery, and its pictures."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from affine import Affine
from click.testing import CliRunner
from PIL import Image
from support.rasters import UTM

from pipelines.studies import sn9_baseline
from pipelines.studies.sn9_baseline import SWITCHES, detect, infer, main, read_aois, table_1, table_2, table_3
from sn9reg.errors import InputError
from sn9reg.matchers.keypoints.heatmap import gaussian
from sn9reg.matchers.keypoints.network import KIND, build
from sn9reg.offsets import from_nodes, node_positions, offsets_between
from sn9reg.raster.folders import data_root
from sn9reg.score.scoring import score
from sn9reg.training.tiles import scene_files, tile_set
from sn9reg.weights import store

pytestmark = pytest.mark.study

NETWORK = {"optical_encoder": "tu-regnetx_002", "sar_encoder": "tu-regnetx_002", "depth": 2, "decoder": [8, 8]}


@pytest.fixture(scope="module")
def folder(scene, tmp_path_factory):
    """The scene alone, with a dozen tie-points."""
    folder = tmp_path_factory.mktemp("scenes")
    for path in (scene.optical, scene.sar):
        shutil.copy(path, folder)
    lines = scene.tiepoints.read_text().splitlines()
    (folder / scene.tiepoints.name).write_text("\n".join([lines[0], *lines[1::2]]))
    return folder


@pytest.fixture(scope="module")
def aoi(folder):
    (one,) = read_aois(folder)
    return one


def body(table):
    """The cells of a table's rows, as many as of the head."""
    first, line, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines())
    assert line == ["---"] * len(first)
    assert {len(row) for row in rows} == {len(first)}
    return rows


def offset_map(optical, move):
    """Of a warp of map positions, exact at nodes 32 px apart."""
    xy, shape = node_positions(optical)
    here = optical.to_map(xy)
    return from_nodes(optical, offsets_between(optical, here, move(here)).T.reshape(2, *shape).astype(np.float32), 32)


def write_points(folder, points, optical=(0, 2, 0, 0, 0, -2), sar=(0, 2, 0, 0, 0, -2)):
    """Tie-points (sar row, sar col, optical row, optical col) and the images' geotransforms, without imagery."""
    lines = ["sar_row,sar_col,optical_row,optical_col", *(",".join(map(str, point)) for point in points)]
    (folder / "02_tiepoints_train_01.csv").write_text("\n".join(lines))
    facts = {"crs": "EPSG:32637", "optical": {"geotransform": optical}, "sar": {"geotransform": sar}}
    (folder / "geotransforms.json").write_text(json.dumps({"02_tiepoints_train_01": facts}))
    return folder


def test_scenes_have_their_grids_tie_points_and_names(aoi, folder, tmp_path):
    assert (aoi.name, [aoi.scene], aoi.optical.shape) == ("02_train_01", scene_files(folder), (600, 700))
    for name in ("west", "east"):
        shutil.copytree(folder, tmp_path / "all" / name)
    assert [aoi.name for aoi in read_aois(tmp_path / "all")] == ["east/02_train_01", "west/02_train_01"]


def test_tie_points_do_without_imagery(tmp_path):
    """Optical pixels of 2 m, SAR pixels of 4 m; the SAR image's corner is 8 m right of and 4 m above the optical's."""
    points = [(10, 10, 20, 20), (1, 2, 3, 8)]
    (one,) = read_aois(write_points(tmp_path, points, (0, 2, 0, 0, 0, -2), (8, 4, 0, 4, 0, -4)))
    assert (one.name, one.scene) == ("02_train_01", None)
    assert one.sar.transform == Affine(4, 0, 8, 0, -4, 4)
    assert one.optical.crs == one.sar.crs == UTM
    one.points.check_inside(one.optical, one.sar)
    # Optical (41, -41) and (17, -7) m; SAR 8 + 4 * 10.5, 4 - 4 * 10.5 = (50, -38) and (18, -2) m.
    metres = np.array([math.hypot(9, 3), math.hypot(1, 5)])
    np.testing.assert_allclose(one.distances(), [metres, metres / 2], rtol=1e-9)


def test_table_1_of_the_real_tie_points():
    folder = data_root() / "sn9_tiepoints"
    if not folder.exists():
        pytest.skip(f"real tie-points are not here: {folder}")
    assert [row[3:] for row in body(table_1(read_aois(folder)))] == [["105.36", "105.56"], ["104.45", "104.72"]]


def test_tables_1_and_2_are_scores_of_offsets(aoi):
    rows, moves = body(table_1([aoi])) + body(table_2([aoi])), (lambda xy: xy, *map(aoi.best_affine, (False, True)))
    expected = [score(offset_map(aoi.optical, move), aoi.optical, aoi.sar, aoi.points) for move in moves]
    heads = [[str(len(aoi.points))], ["affine without RANSAC"], ["affine with RANSAC"]]
    for row, head, move, found in zip(rows, heads, moves, expected, strict=True):
        means = np.mean(aoi.distances(move), axis=1)
        assert means == pytest.approx([found.mean_m, found.mean_px], abs=1e-3)
        assert row[:4] == [aoi.name, *head, *(f"{mean:.2f}" for mean in means)]
    assert rows[0][4] == f"{expected[0].sn9_mean_px:.2f}"


def test_ransac_leaves_outliers_out_and_least_squares_does_not(tmp_path):
    """Nine tie-points at the same pixels of both images, but for the middle one."""
    middle = np.arange(9) == 4
    points = [(y + 90 * (x == y == 300), x, y, x) for y in (0, 300, 600) for x in (0, 300, 600)]
    (aoi,) = read_aois(write_points(tmp_path, points))
    plain, robust = aoi.best_affine(False), aoi.best_affine(True)
    np.testing.assert_allclose(aoi.distances(plain)[1], np.where(middle, 80, 10))
    np.testing.assert_allclose(aoi.distances(robust)[1], np.where(middle, 90, 0), atol=1e-6)
    assert (plain.inliers.all(), (robust.inliers != middle).all()) == (True, True)


@pytest.mark.parametrize("count", [1, 10])
def test_tie_points_that_determine_no_affine_are_enough_for_table_1(tmp_path, count):
    aois = read_aois(write_points(tmp_path, [(k, k, k, k) for k in range(count)]))
    assert len(body(table_1(aois))) == 1
    with pytest.raises(InputError, match=f"02_train_01: its {count} tie-points do not determine an affine"):
        table_2(aois)


def test_table_3_is_the_score_of_the_detected_affine(aoi, monkeypatch):
    asked, centre = [], aoi.optical.to_map(np.array([[350.0, 300.0]]))[0]

    def move(xy):
        return (xy - centre) @ [[1.02, -0.02], [0.01, 0.99]] + centre + [7, -3]

    def table(count, *names):
        class Matches(list):
            optical_map = aoi.optical.to_map(np.random.default_rng(0).uniform(0, 600, (count, 2)))
            sar_map = move(optical_map)

        def make_matcher(name, **options):
            asked.append((name, options))
            return SimpleNamespace(match=lambda pair: Matches(range(count)))

        monkeypatch.setattr(sn9_baseline, "make_matcher", make_matcher)
        return infer([aoi], {"sar_weights": "a"}, names)

    found = table(40, "the paper's", "all of them")
    rows = body(table_3(found))
    expected = score(offset_map(aoi.optical, move), aoi.optical, aoi.sar, aoi.points)
    for row, name in zip(rows, ("the paper's", "all of them"), strict=True):
        assert row[:4] == ["02_train_01", name, "40", "40"]
        assert [float(cell) for cell in row[4:6]] == pytest.approx([expected.mean_m, expected.mean_px], abs=6e-3)
    for (name, options), on in zip(asked, (False, True), strict=True):
        assert (name, options["sar_weights"]) == ("keypoints", "a")
        assert [options[switch] for switch in SWITCHES["all of them"]] == [on] * 4
    few = table(2, "the paper's")
    assert body(table_3(few))[0][2:6] == ["2", "none", "no affine", "no affine"]
    with pytest.raises(InputError, match="02_train_01: its 2 matches determine no affine"):
        sn9_baseline.pixel_offsets(few[0])
    expected = offset_map(aoi.optical, move).read(aoi.optical.window)
    np.testing.assert_allclose(sn9_baseline.pixel_offsets(found[0])[:, :-1, :-1], expected[:, ::32, ::32], atol=0.01)


def test_errors_are_distances_to_the_tie_points(aoi, tmp_path, monkeypatch):
    """The detector knows the places, in their order, and is 3 px beside them."""
    place = tile_set(aoi.scene, "optical", cache=tmp_path).place
    parts, right = iter(torch.tensor(place).split(5)), np.array([3, 0], np.float32)

    def detector(optical, sar):
        assert optical.shape == sar.shape == (len(optical), 1, 256, 256)
        return gaussian(next(parts) + torch.tensor(right), 256)

    monkeypatch.setattr(sn9_baseline, "_BATCH", 5)
    detector.finds, detector.bands = "optical", 1
    monkeypatch.setattr(sn9_baseline, "load_detector", lambda *_: detector)
    found = detect(aoi.scene, "optical", None, tmp_path)
    inner = ((place > 50) & (place < 200)).all(axis=1)
    assert inner.sum() > 3
    np.testing.assert_allclose(found.errors[inner], 3, atol=0.1)
    np.testing.assert_allclose(found.whole[inner], np.hypot(*(np.rint(place + right) - place)[inner].T), atol=1e-3)
    np.testing.assert_allclose(found.guesses, np.hypot(*(place - 128.0).T), rtol=1e-5)


def invoke(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_command_prints_tables_and_draws(folder, aoi, tmp_path, monkeypatch):
    """With untrained detectors."""
    monkeypatch.setattr(sn9_baseline, "FAITHFUL", sn9_baseline.FAITHFUL | {"max_points": 6})
    files = []
    for seed, finds in enumerate(("sar", "optical")):
        torch.manual_seed(seed)
        files.append(f"--{finds}-weights={tmp_path / finds}.safetensors")
        options = {"finds": finds, "options": NETWORK}
        store.save(tmp_path / f"{finds}.safetensors", build(options), KIND, options)
    tables = ("--tables", "2,detectors,3,1", "--switches", "the paper's")
    result = invoke(folder, "--out", tmp_path / "out", *tables, *files)
    assert result.exit_code == 0, result.output
    _, detectors, third, first = result.stdout.split("\n\n")[1::2]
    assert result.stdout.startswith(f"\nTable 2: transformations fitted to the tie-points\n\n{table_2([aoi])}")
    assert first.startswith(table_1([aoi]))
    for row, finds in zip(body(detectors), ("sar", "optical"), strict=True):
        tiles = tile_set(aoi.scene, finds, cache=tmp_path / "out" / "tiles")
        assert row[:5] == ["02_train_01", finds, "grey", str(len(tiles)), str(tiles.outside)]
    assert int(body(third)[0][2]) > 0
    assert "RANSAC affine; sar detector: grey; optical detector: grey\n" in result.stdout
    for name in result.stdout.splitlines()[-2:]:
        assert len(np.unique(Image.open(name).convert("L"))) > 20


@pytest.mark.filterwarnings("ignore")  # Lightning advises on speed
def test_command_trains_the_papers_detectors_once_and_looks_at_tiles_held_out(folder, aoi, tmp_path):
    network = NETWORK | {"optical_bands": 3}
    config = {"train": "keypoints", "finds": "sar", "scenes": ["none"], "network": network, "workers": 0}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    how = (folder, "--out", tmp_path / "out", "--epochs", 1, "--config", tmp_path / "config.yaml")
    results = [invoke(*how, "--tables", "detectors") for _ in range(2)]
    assert [result.exit_code for result in results] == [0, 0], results[0].output
    assert results[0].stdout == results[1].stdout
    table, _, figure = results[1].stdout.split("\n\n")[1].rstrip("\n").rpartition("\n")
    for row, finds in zip(body(table), ("sar", "optical"), strict=True):
        tiles = tile_set(aoi.scene, finds, cache=tmp_path / "out" / "tiles")
        assert row[:4] == ["02_train_01", finds, "RGB", str(round(0.2 * len(tiles)))]
    assert figure == str(tmp_path / "out" / "figure_5.png")


def test_command_leaves_out_tables_that_need_imagery(tmp_path):
    folder = write_points(tmp_path, [(10, 20, 30, 40), (10, 120, 30, 142), (210, 20, 230, 41)])
    result = invoke(folder, "--out", tmp_path / "out")
    assert result.stdout.count(f": left out, there is no imagery in {folder}") == 2
    assert result.stdout.count("| 02_train_01 |") == 3
    assert not (tmp_path / "out").exists()
