"""The simulator: its geometry above all, measured in the images and not by its formulas."""

import copy
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from support.commands import run

from sn9reg.errors import ConfigError, InputError
from sn9reg.offsets import open_offsets
from sn9reg.raster.grid import Window
from sn9reg.simulate import Scene, SimulatedScene, make_scene, simulate
from sn9reg.simulate.landuse import Kind, Shapes, Solid, World
from sn9reg.simulate.optical import Optical
from sn9reg.simulate.sar import Sar
from sn9reg.simulate.scene import truth
from sn9reg.simulate.solids import Sketch, Surface

NAMES = {"02_optical_train_01.tif", "02_sar_train_01.tif", "02_tiepoints_train_01.csv", "02_offsets_train_01.tif"}
MORE = {"02_optical_surface_train_01.tif", "02_sar_surface_train_01.tif", "02_heights_train_01.tif"}
HEADER = "sar_row,sar_col,optical_row,optical_col"


@pytest.fixture(autouse=True, scope="module")
def _little_around() -> Iterator[None]:
    """Scenes are rendered in several blocks, with little around them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sn9reg.simulate.scene._BLOCK", 300)
        patch.setattr("sn9reg.simulate.scene._AROUND", 100)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> SimulatedScene:
    """A city, rendered."""
    return simulate(tmp_path_factory.mktemp("scene"), 440, 400, seed=3, empty=0.05, kind="city", ground_truth=True)


@pytest.fixture(scope="module")
def small() -> Scene:
    """The same, laid out and not rendered."""
    return make_scene(440, 400, seed=3, kind="city")


@pytest.fixture
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing lies or stands on the ground of villages."""
    monkeypatch.setattr("sn9reg.simulate.scene.build_village", lambda bounds, _, seed: World(bounds, seed))


def truth_at_nodes(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) optical pixels and (N, 2) offsets."""
    xy = np.mgrid[0 : scene.optical.width : 100, 0 : scene.optical.height : 100].reshape(2, -1).T.astype(float)
    return xy, truth(scene).sample(xy)


def test_files_are_those_of_spacenet9(written: SimulatedScene) -> None:
    assert {path.name for path in written.optical.parent.iterdir()} == NAMES | MORE
    with rasterio.open(written.optical) as optical, rasterio.open(written.sar) as sar:
        assert (optical.count, optical.dtypes[0], optical.shape) == (3, "uint8", (400, 440))
        assert (sar.count, sar.dtypes[0], sar.nodata) == (1, "uint16", 0)
        assert optical.crs == sar.crs == "EPSG:32637"
        assert optical.res == pytest.approx((0.305, 0.305))
        assert sar.res == pytest.approx((0.409, 0.409))
        assert optical.bounds != sar.bounds
    with open_offsets(written.offsets) as offsets:
        assert offsets.grid.shape == (400, 440)
    assert written.tiepoints.read_text().splitlines()[0] == HEADER


def test_files_agree_with_a_block_rendered_alone(written: SimulatedScene, small: Scene) -> None:
    """The optical block lies across the seam of four. Matrix products differ by float32 steps from block to block: by a
    grey, or a step of the texture's table, in very few pixels."""
    for painter, path, window in (
        (Optical(small), written.optical, Window(260, 260, 80, 80)),
        (Sar(small, 4.0, 0.05), written.sar, Window(250, 220, 100, 130)),
    ):
        one = painter.render(window).astype(float)
        with rasterio.open(path) as file:
            other = file.read()[(slice(None), *window.slices())].squeeze().astype(float)
        assert (one != other).mean() < 0.002
        assert (np.abs(one - other) <= np.maximum(1, 0.02 * other)).all()


def standing(scene: Scene, solids: Shapes) -> Scene:
    """The same scene with other things that stand up."""
    world = copy.copy(scene.world)
    world.solids = solids
    return dataclasses.replace(scene, world=world)


def test_roads_lie_in_both_images_where_the_truth_says() -> None:
    """The SAR image, fetched by the offset map alone, has its dark lines where the optical one has roads."""
    scene = standing(make_scene(700, 700, 1), Shapes())
    ground = scene.world.ground
    shapes = Sketch(ground.outlines, ground.width, scene.optical).drawn(scene.optical.window)
    road = np.array([False, *np.equal(ground.kind, Kind.ROAD)], np.float32)[shapes]
    dark = -np.log(Sar(scene, 4.0, 0.0).intensity(scene.sar.window))
    x, y = np.meshgrid(np.arange(700.0), np.arange(700.0))
    offsets = truth(scene).read(scene.optical.window).reshape(2, -1).T
    found = {}
    for name, shift in (("truth", offsets), ("zero", 0 * offsets)):
        # Written out, so that it shares nothing with the simulator: metres from the optical to the SAR corner.
        east = scene.optical.transform.c + (x.ravel() + 0.5 + shift[:, 0]) * 0.305 - scene.sar.transform.c
        south = scene.sar.transform.f - scene.optical.transform.f + (y.ravel() + 0.5 + shift[:, 1]) * 0.305
        at = (np.stack([east, south]) / 0.409 - 0.5).reshape(2, 700, 700).astype(np.float32)
        fetched = cv2.remap(dark, at[0], at[1], cv2.INTER_LINEAR, borderValue=float("nan"))
        found[name] = _peaks(road, fetched)
    assert len(found["truth"]) >= 10
    assert np.abs(np.median(found["truth"], axis=0)).max() < 0.3  # half a pixel astray would show
    assert np.median(np.hypot(*found["truth"].T)) < 1.0
    assert (np.hypot(*found["zero"].T) < 3).mean() < 0.3


def _peaks(template: np.ndarray, image: np.ndarray, half: int = 40, reach: int = 20) -> np.ndarray:
    """(N, 2) sub-pixel shifts at which patches of `template` correlate best with `image`."""
    shifts = []
    outer = half + reach
    for row, col in itertools.product(range(outer, 640, 50), repeat=2):
        patch = template[row - half : row + half + 1, col - half : col + half + 1]
        search = image[row - outer : row + outer + 1, col - outer : col + outer + 1]
        gx, gy = cv2.Sobel(patch, cv2.CV_32F, 1, 0), cv2.Sobel(patch, cv2.CV_32F, 0, 1)
        low, high = np.linalg.eigvalsh([[(gx * gx).sum(), (gx * gy).sum()], [(gx * gy).sum(), (gy * gy).sum()]])
        if np.isnan(search).any() or not low > 0.2 * high > 0:  # edges in all directions determine its place
            continue
        surface = cv2.matchTemplate(search, patch, cv2.TM_CCOEFF_NORMED)
        if surface.max() < 0.5:  # other dark things than roads
            continue
        r, c = np.clip(np.unravel_index(surface.argmax(), surface.shape), 1, 2 * reach - 1)
        around = np.column_stack([surface[r, c - 1 : c + 2], surface[r - 1 : r + 2, c]]).astype(float)
        curve, slope, _ = np.polyfit((-1, 0, 1), around, 2)  # parabolas along x and y
        shifts.append([c - reach, r - reach] - slope / (2 * curve))
    return np.array(shifts)


def house(scene: Scene, **look: Any) -> Scene:
    """A scene with a house of 12 x 12 m, 10 m high, around optical pixel (150, 150)."""
    corners = scene.optical.to_map(np.array([[150.0, 150.0]])) + np.array([[-6, -6], [6, -6], [6, 6], [-6, 6]])
    solids = Shapes([Solid.FLAT], [corners], [0.0], [10.0], [[0.5, 0.5, 0.5]])
    return dataclasses.replace(standing(scene, solids), look=dataclasses.replace(scene.look, **look))


@pytest.mark.usefixtures("_bare")
@pytest.mark.parametrize("look", [{}, {"towards_sensor": np.array([0.6, 0.8]), "tan_incidence": 0.6}])
def test_buildings_lean_towards_the_sensor_and_shade_the_other_side(look: dict) -> None:
    scene = make_scene(300, 300, seed=6)
    vars(scene.field).update(look)
    empty, built = (Sar(world, 4.0, 0.0).intensity(scene.sar.window) for world in (scene, house(scene)))
    foot = scene.sar.to_pixel(scene.field.in_sar(scene.optical.to_map(np.array([[150.0, 150.0]]))))[0]
    masks = built > 1.6 * empty, built < 0.4 * empty
    bright, dark = (np.argwhere(mask)[:, ::-1].mean(axis=0) - foot for mask in masks)
    towards = scene.field.towards_sensor * [1, -1]  # pixel rows run down
    assert bright @ towards > 5
    assert dark @ towards < -5


@pytest.mark.usefixtures("_bare")
def test_a_house_leans_from_the_optical_sensor_and_casts_its_shadow_from_the_sun() -> None:
    scene = house(make_scene(300, 300, seed=6), sun=np.array([0.0, -1.0]), sun_slope=1.0, lean=np.array([0.5, 0.0]))
    shown = Optical(scene).surface(scene.optical.window)
    kinds = Surface.TOP, Surface.SIDE, Surface.SHADOW
    top, side, shadow = ((np.argwhere(shown == kind)[:, ::-1].mean(axis=0) - 150) * 0.305 for kind in kinds)
    np.testing.assert_allclose(top, [5, 0], atol=0.3)  # half of its height, eastwards
    np.testing.assert_allclose(side, [-3.5, 0], atol=0.4)  # the western wall, 5 m wide
    assert shadow[1] < -8  # northwards of the house
    assert (shown == Surface.TOP).sum() * 0.305**2 == pytest.approx(12.4**2, rel=0.05)  # pixels touched are painted
    assert (shown == Surface.SIDE).sum() * 0.305**2 == pytest.approx(60, rel=0.1)


def test_surfaces_say_what_both_images_of_a_city_show(written: SimulatedScene) -> None:
    assert written.optical_surface
    assert written.sar_surface
    shares = []
    for image, surface in ((written.optical, written.optical_surface), (written.sar, written.sar_surface)):
        with rasterio.open(image) as pixels, rasterio.open(surface) as shown:
            grey, kind = pixels.read().astype(float).mean(axis=0), shown.read(1)
            assert shown.shape == pixels.shape
            assert np.array_equal(kind == Surface.NOTHING, pixels.read(1) == 0)
        assert np.median(grey[kind == Surface.SHADOW]) < 0.7 * np.median(grey[kind == Surface.GROUND])
        shares.append([(kind == one).mean() for one in list(Surface)[1:]])
    assert np.min(shares) > 0.02
    assert np.array(shares)[:, 0].min() > 0.15


def test_tie_points_agree_with_the_offset_map(written: SimulatedScene) -> None:
    points = np.loadtxt(written.tiepoints, delimiter=",", skiprows=1, dtype=int)  # sar_row, sar_col, row, col
    assert len(points) >= 10
    with rasterio.open(written.optical) as optical, rasterio.open(written.sar) as sar:
        found = np.array([np.array(sar.xy(*p[:2])) - optical.xy(*p[2:]) for p in points]) / [0.305, -0.305]
        assert (points.min(axis=0) >= 0).all()
        assert (points.max(axis=0) < [sar.height, sar.width, optical.height, optical.width]).all()
        assert all(sar.read(1)[p[0], p[1]] > 0 for p in points)
    with open_offsets(written.offsets) as offsets:
        error = found - offsets.sample(points[:, [3, 2]].astype(float))
    assert np.sqrt((error**2).mean()) < 3.5
    assert np.abs(error.mean(axis=0)).max() < 2


def test_a_large_scene_is_like_spacenet9_and_a_part_of_it_is_not_affine_either() -> None:
    large = make_scene(5_000, 2_500, seed=1)
    xy, offsets = truth_at_nodes(large)
    length = np.hypot(*offsets.T)
    share = np.linalg.eigvalsh(np.cov(offsets.T))
    assert 75 < length.mean() < 115
    assert length.max() < 330
    assert share[1] / share.sum() > 0.9
    for part, least, most in ((xy < np.inf, 15, 60), (xy < 1500, 3, 60)):
        some = part.all(axis=1)
        design = np.column_stack([xy[some], np.ones(some.sum())])
        residual = offsets[some] - design @ np.linalg.lstsq(design, offsets[some], rcond=None)[0]
        assert least < np.hypot(*residual.T).mean() < most
    ground = large.optical.to_map(xy)  # the way back inverts the way there
    np.testing.assert_allclose(large.field.on_ground(large.field.in_sar(ground)), ground, atol=1e-6)
    junctions = large.optical.to_pixel(large.world.junctions)  # are many and spread
    counts, *_ = np.histogram2d(*junctions.T, bins=(4, 2), range=[(0, 5_000), (0, 2_500)])
    assert counts.sum() > 50
    assert counts.min() > 0
    tone = np.array(large.world.ground.tone)  # SAR is no function of the optical grey
    assert abs(np.corrcoef(tone[:, 0], tone[:, 1])[0, 1]) < 0.15


def test_speckle_has_the_given_looks(small: Scene) -> None:
    window = Window(100, 100, 150, 150)
    scene = standing(small, Shapes())
    smooth = Sar(scene, 1.0, 0.0).intensity(window)
    for looks in (1.0, 9.0):
        intensity = Sar(scene, looks, 0.0).render(window).astype(float) ** 2 / smooth
        assert intensity.mean() ** 2 / intensity.var() == pytest.approx(looks, rel=0.1)


def test_no_data_beyond_the_swath(written: SimulatedScene, small: Scene) -> None:
    y, x = np.ogrid[small.sar.window.slices()]
    for empty in (0.5, 0.0):
        covered = Sar(small, 4.0, empty).covers(x, y)
        assert 1 - covered.mean() == pytest.approx(empty, abs=0.02 * (empty > 0))
    with rasterio.open(written.sar) as file:
        assert np.array_equal(file.read_masks(1) == 0, file.read(1) == 0)
        assert (file.read(1) == 0).mean() == pytest.approx(0.05, abs=0.01)


def given_csv(folder: Path) -> tuple[Path, Path]:
    """81 tie-points of a ramp: X_sar - X_opt = (-20, 6) + 0.02 x, with images of different origin."""
    table, transforms = folder / "aoi.csv", folder / "geo.json"
    optical, sar = [500.0, 0.3, 0, 900.0, 0, -0.3], [480.0, 0.4, 0, 930.0, 0, -0.4]
    row, col = np.mgrid[0:900:100, 0:900:100].reshape(2, -1)
    east, north = 480 + (col + 0.5) * 0.3 + 0.02 * col * 0.3, 906 - (row + 0.5) * 0.3
    points = (930 - north) / 0.4 - 0.5, (east - 480) / 0.4 - 0.5, row, col
    np.savetxt(table, np.column_stack(points), "%.3f", ",", header=HEADER, comments="")
    transforms.write_text(json.dumps({"aoi": {"optical": {"geotransform": optical}, "sar": {"geotransform": sar}}}))
    return table, transforms


@pytest.mark.usefixtures("_bare")
def test_field_from_tie_points(tmp_path: Path) -> None:
    scene = make_scene(300, 300, 0, *given_csv(tmp_path))
    xy, offsets = truth_at_nodes(scene)
    east = -20 + 0.02 * (120 + (xy[:, 0] - 149.5) * 0.305)
    np.testing.assert_allclose(offsets * [0.305, -0.305], np.column_stack([east, np.full(len(xy), 6.0)]), atol=0.1)
    table = tmp_path / "without geotransforms.csv"
    rows = [(r * 0.305 / 0.409, (c + 40) * 0.305 / 0.409, r, c) for r in (0, 300, 600) for c in (0, 500)]
    np.savetxt(table, rows, "%.3f", ",", header=HEADER, comments="")
    _, offsets = truth_at_nodes(make_scene(200, 200, 0, table))
    np.testing.assert_allclose(offsets, np.broadcast_to([40.0, 0.0], offsets.shape), atol=0.3)


def test_field_and_geotransforms_that_are_none(tmp_path: Path) -> None:
    table, transforms = given_csv(tmp_path)
    for content, words in (("a,b\n1,2", r"bad\.csv"), (f"{HEADER}\n1,2,3,4", "4 tie-points")):
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(InputError, match=words):
            make_scene(300, 300, 0, tmp_path / "bad.csv")
    with pytest.raises(ConfigError, match="--field"):
        make_scene(300, 300, 0, None, transforms)
    with pytest.raises(InputError, match="missing"):
        make_scene(300, 300, 0, table, tmp_path / "missing.json")
    huge = json.dumps({"aoi": {key: {"geotransform": [10**400] * 6} for key in ("optical", "sar")}})
    for content in ("{", "{}", '{"aoi": {"optical": {"geotransform": [1]}}}', "[]", "[" * 100_000, huge):
        transforms.write_text(content)
        with pytest.raises(InputError, match=r"geo\.json"):
            make_scene(300, 300, 0, table, transforms)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"width": 10}, "10 x 10"), ({"height": 0}, "300 x 0"), ({"height": 90_000}, "300 x 90000"), ({"seed": -1}, "-1"),
     ({"kind": "sea"}, "no scene 'sea'; there are: city"),
     ({"looks": 0.0}, "0.0 looks"), ({"looks": float("nan")}, "nan looks"), ({"empty": 1.0}, "fraction of 1.0"),
     ({"empty": -0.1}, "fraction of -0.1"), ({"field": "none.csv"}, r"none\.csv")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_and_leaves_no_folder(tmp_path: Path, change: dict, words: str) -> None:
    with pytest.raises(InputError if "field" in change else ConfigError, match=words):
        simulate(tmp_path / "new" / "scene", **({"width": 300} | change))
    assert not list(tmp_path.iterdir())


def test_another_time_is_the_same_place_under_another_sun(tmp_path: Path) -> None:
    """Pixels change, in both images; the ground's offsets, the tie-points' grid and what the images show do not."""
    first, again, other = (simulate(tmp_path / str(k), 300, seed=4, time=time) for k, time in enumerate((0, 0, 2)))
    assert again.optical.read_bytes() == first.optical.read_bytes()
    truths, images = [], []
    for files in (first, other):
        with open_offsets(files.offsets) as offsets, rasterio.open(files.optical) as optical:
            truths.append(offsets.read(offsets.grid.window))
            images.append(cv2.GaussianBlur(optical.read(1).astype(np.float32), (0, 0), 3).ravel())
    np.testing.assert_array_equal(*truths)
    assert 0.5 < np.corrcoef(images)[0, 1] < 0.999
    assert first.sar.read_bytes() != other.sar.read_bytes()
    with pytest.raises(ConfigError, match="time -1 is not between"):
        make_scene(300, 300, time=-1)


def test_command(tmp_path: Path) -> None:
    """The same seed gives the same bytes, and another seed is another place."""
    command = f"simulate {tmp_path}/scene --size 240x200"
    first = run(command, "--seed 5 --json")
    assert first.exit_code == 0, first.output
    files = [Path(path) for path in json.loads(first.stdout).values()]
    assert {path.name for path in files} == NAMES
    with rasterio.open(files[0]) as file:
        assert file.shape == (200, 240)
    before = [path.read_bytes() for path in files]
    again = run(command)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    for seed, same in ((5, True), (0, False)):
        assert run(command, f"--overwrite --seed {seed}").exit_code == 0
        assert [path.read_bytes() == old for path, old in zip(files, before, strict=True)] == [same] * 4
    for size in ("big", "300x", "x300", "300x300x3"):
        assert run(f"simulate {tmp_path}/new --size {size}").exit_code == 2
    assert not (tmp_path / "new").exists()
