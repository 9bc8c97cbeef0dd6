"""The simulator: its geometry above all, measured in the images and not by its formulas."""

import dataclasses
import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner

from sn9reg.cli import main
from sn9reg.errors import ConfigError, InputError
from sn9reg.offsets import open_offsets
from sn9reg.raster.grid import Window
from sn9reg.simulate import Scene, SimulatedScene, make_scene, simulate
from sn9reg.simulate.landuse import Kind, Shapes, Solid
from sn9reg.simulate.optical import Optical
from sn9reg.simulate.sar import Sar
from sn9reg.simulate.sketch import Sketch, drawn
from sn9reg.simulate.solids import Surface

NAMES = {"02_optical_train_01.tif", "02_sar_train_01.tif", "02_tiepoints_train_01.csv", "02_offsets_train_01.tif"}
MORE = {"02_optical_surface_train_01.tif", "02_sar_surface_train_01.tif", "02_heights_train_01.tif"}
HEADER = "sar_row,sar_col,optical_row,optical_col"


def city_in(folder: Path) -> SimulatedScene:
    """A city, rendered in several blocks, with little around it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sn9reg.simulate.scene._BLOCK", 300)
        patch.setattr("sn9reg.simulate.scene._AROUND", 100)
        return simulate(folder, 440, 400, seed=3, empty=0.05, kind="city", ground_truth=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> SimulatedScene:
    return city_in(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def small() -> Scene:
    """The same, laid out and not rendered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sn9reg.simulate.scene._AROUND", 100)
        return make_scene(440, 400, seed=3, kind="city")


def files_of(scene: SimulatedScene) -> list[Path]:
    return [path for path in dataclasses.astuple(scene) if path]


def painters(scene: Scene, looks: float = 4.0, empty: float = 0.0) -> tuple[Optical, Sar]:
    origin = np.array([scene.optical.transform.c, scene.optical.transform.f])
    sar = Sar(scene.world, scene.sar, origin, scene.field, scene.seed, looks, empty)
    return Optical(scene.world, scene.optical, scene.field, scene.look, scene.seed), sar


def truth_at_nodes(scene: Scene, step: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) optical pixels and (N, 2) offsets."""
    xy = np.mgrid[0 : scene.optical.width : step, 0 : scene.optical.height : step].reshape(2, -1).T.astype(float)
    return xy, scene.truth().sample(xy)


def beyond_affine(xy: np.ndarray, offsets: np.ndarray) -> float:
    """Mean length of what is left of offsets after the best affine."""
    design = np.column_stack([xy, np.ones(len(xy))])
    residual = offsets - design @ np.linalg.lstsq(design, offsets, rcond=None)[0]
    return float(np.hypot(*residual.T).mean())


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


def test_same_seed_same_bytes(written: SimulatedScene, tmp_path: Path) -> None:
    again = city_in(tmp_path / "again")
    for first, second in zip(*map(files_of, (written, again)), strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_files_agree_with_a_block_rendered_alone(written: SimulatedScene, small: Scene) -> None:
    """The optical block lies across the seam of four. Matrix products differ by float32 steps from block to block: by a
    grey, or a step of the texture's table, in very few pixels."""
    optical, sar = painters(small, empty=0.05)
    for painter, path, window in (
        (optical, written.optical, Window(260, 260, 80, 80)),
        (sar, written.sar, Window(250, 220, 100, 130)),
    ):
        one = painter.render(window).astype(float)
        with rasterio.open(path) as file:
            other = file.read()[(slice(None), *window.slices())].squeeze().astype(float)
        assert (one != other).mean() < 0.002
        assert (np.abs(one - other) <= np.maximum(1, 0.02 * other)).all()


def flat(scene: Scene) -> Scene:
    """The same scene without anything that stands up."""
    return dataclasses.replace(scene, world=dataclasses.replace(scene.world, solids=Shapes()))


@pytest.mark.parametrize("seed", [1, 5])
def test_roads_lie_in_both_images_where_the_truth_says(seed: int) -> None:
    """The SAR image, fetched by the offset map alone, has its dark lines where the optical one has roads."""
    scene = flat(make_scene(700, 700, seed))
    ground = scene.world.ground
    shapes = Sketch.of(ground.outlines, scene.optical, ground.width)
    is_road = np.equal(ground.kind, Kind.ROAD)
    road = drawn(scene.optical.window, np.float32, (shapes, is_road.astype(float)))
    dark = -np.log(painters(scene)[1].intensity(scene.sar.window))
    x, y = np.meshgrid(np.arange(700.0), np.arange(700.0))
    offsets = scene.truth().read(scene.optical.window).reshape(2, -1).T
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


@pytest.mark.parametrize("look", [{}, {"towards_sensor": np.array([0.6, 0.8]), "tan_incidence": 0.6}])
def test_buildings_lean_towards_the_sensor_and_shade_the_other_side(look: dict) -> None:
    scene = flat(make_scene(300, 300, seed=6))
    scene = dataclasses.replace(scene, field=dataclasses.replace(scene.field, **look))
    place = scene.optical.to_map(np.array([[150.0, 150.0]]))[0]
    corners = np.array([[-6, -6], [6, -6], [6, 6], [-6, 6]], float)
    house = Shapes([0], [place + corners], [0.0], [10.0], [[0.5, 0.5, 0.5]])
    bare = dataclasses.replace(scene.world, ground=Shapes())
    worlds = (dataclasses.replace(scene, world=dataclasses.replace(bare, solids=b)) for b in (Shapes(), house))
    empty, built = (painters(world)[1].intensity(scene.sar.window) for world in worlds)
    foot = scene.sar.to_pixel(scene.field.in_sar(place[None]))[0]
    masks = built > 1.6 * empty, built < 0.4 * empty
    bright, dark = (np.argwhere(mask)[:, ::-1].mean(axis=0) - foot for mask in masks)
    towards = scene.field.towards_sensor * [1, -1]  # pixel rows run down
    assert bright @ towards > 5
    assert dark @ towards < -5


def test_a_house_leans_from_the_optical_sensor_and_casts_its_shadow_from_the_sun() -> None:
    scene = flat(make_scene(300, 300, seed=6))
    look = dataclasses.replace(scene.look, sun=np.array([0.0, -1.0]), sun_slope=1.0, lean=np.array([0.5, 0.0]))
    corners = scene.optical.to_map(np.array([[150.0, 150.0]]))[0] + np.array(
        [[-6, -6], [6, -6], [6, 6], [-6, 6]], float
    )
    house = Shapes([Solid.FLAT], [corners], [0.0], [10.0], [[0.5, 0.5, 0.5]])
    world = dataclasses.replace(scene.world, ground=Shapes(), solids=house)
    shown = painters(dataclasses.replace(scene, world=world, look=look))[0].surface(scene.optical.window)
    middle = {
        kind: np.argwhere(shown == kind)[:, ::-1].mean(axis=0) * 0.305 for kind in Surface if (shown == kind).any()
    }
    place = np.array([150.0, 150.0]) * 0.305
    np.testing.assert_allclose(middle[Surface.TOP] - place, [5, 0], atol=0.3)  # half of its height, eastwards
    np.testing.assert_allclose(middle[Surface.SIDE] - place, [-3.5, 0], atol=0.4)  # the western wall, 5 m wide
    assert (middle[Surface.SHADOW] - place)[1] < -8  # northwards of the house
    size = {kind: (shown == kind).sum() * 0.305**2 for kind in middle}
    assert size[Surface.TOP] == pytest.approx(12.4**2, rel=0.05)  # pixels that are touched are painted
    assert size[Surface.SIDE] == pytest.approx(60, rel=0.1)


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


def test_a_large_scene_is_like_spacenet9() -> None:
    large = make_scene(5_000, 2_500, seed=1)
    xy, offsets = truth_at_nodes(large)
    length = np.hypot(*offsets.T)
    share = np.linalg.eigvalsh(np.cov(offsets.T))
    assert 75 < length.mean() < 115
    assert length.max() < 330
    assert share[1] / share.sum() > 0.9
    assert 15 < beyond_affine(xy, offsets) < 60
    ground = large.optical.to_map(xy)  # the way back inverts the way there
    np.testing.assert_allclose(large.field.on_ground(large.field.in_sar(ground)), ground, atol=1e-6)
    junctions = large.optical.to_pixel(large.world.junctions)  # are many and spread
    counts, *_ = np.histogram2d(*junctions.T, bins=(4, 2), range=[(0, 5_000), (0, 2_500)])
    assert counts.sum() > 50
    assert counts.min() > 0
    tone = np.array(large.world.ground.tone)  # SAR is no function of the optical grey
    assert abs(np.corrcoef(tone[:, 0], tone[:, 1])[0, 1]) < 0.15


def test_small_scenes_are_not_affine_either() -> None:
    xy, offsets = truth_at_nodes(make_scene(1500, 1500, seed=0), 50)
    assert beyond_affine(xy, offsets) > 3
    assert 20 < np.hypot(*offsets.T).mean() < np.hypot(*offsets.T).max() < 150 / 0.305


def test_speckle_has_the_given_looks(small: Scene) -> None:
    window = Window(100, 100, 150, 150)
    scene = flat(small)
    smooth = painters(scene)[1].intensity(window)
    for looks in (1.0, 9.0):
        intensity = painters(scene, looks)[1].render(window).astype(float) ** 2 / smooth
        assert intensity.mean() ** 2 / intensity.var() == pytest.approx(looks, rel=0.1)


@pytest.mark.parametrize("empty", [0.5, 0.0])
def test_no_data_beyond_the_swath(tmp_path: Path, empty: float) -> None:
    with rasterio.open(simulate(tmp_path, 200, empty=empty).sar) as file:
        assert (file.read(1) == 0).mean() == pytest.approx(empty, abs=0.02 * (empty > 0))
        assert np.array_equal(file.read_masks(1) == 0, file.read(1) == 0)


def given_csv(folder: Path) -> tuple[Path, Path]:
    """81 tie-points of a ramp: X_sar - X_opt = (-20, 6) + 0.02 x, with images of different origin."""
    optical, sar = [500.0, 0.3, 0, 900.0, 0, -0.3], [480.0, 0.4, 0, 930.0, 0, -0.4]
    lines = [HEADER]
    for row, col in itertools.product(range(0, 900, 100), repeat=2):
        east, north = 480 + (col + 0.5) * 0.3 + 0.02 * col * 0.3, 906 - (row + 0.5) * 0.3
        lines.append(f"{(930 - north) / 0.4 - 0.5:.3f},{(east - 480) / 0.4 - 0.5:.3f},{row},{col}")
    table, transforms = folder / "aoi.csv", folder / "geo.json"
    table.write_text("\n".join(lines) + "\n")
    content = {"aoi": {"optical": {"geotransform": optical}, "sar": {"geotransform": sar}}}
    transforms.write_text(json.dumps(content))
    return table, transforms


def test_field_from_tie_points(tmp_path: Path) -> None:
    scene = make_scene(300, 300, 0, *given_csv(tmp_path))
    xy, offsets = truth_at_nodes(scene)
    east = -20 + 0.02 * (120 + (xy[:, 0] - 149.5) * 0.305)
    np.testing.assert_allclose(offsets * [0.305, -0.305], np.column_stack([east, np.full(len(xy), 6.0)]), atol=0.1)
    table = tmp_path / "without geotransforms.csv"
    rows = [f"{r * 0.305 / 0.409:.3f},{(c + 40) * 0.305 / 0.409:.3f},{r},{c}" for r in (0, 300, 600) for c in (0, 500)]
    table.write_text("\n".join([HEADER, *rows]))
    _, offsets = truth_at_nodes(make_scene(200, 200, 0, table))
    np.testing.assert_allclose(offsets, np.broadcast_to([40.0, 0.0], offsets.shape), atol=0.3)


def test_field_and_geotransforms_that_are_none(tmp_path: Path) -> None:
    table, transforms = given_csv(tmp_path)
    for content in ("", "a,b\n1,2", f"{HEADER}\n1,2,3", f"{HEADER}\n1,2,3,nan", f"{HEADER}\n1,2,3,4"):
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(InputError, match=r"bad\.csv|4 tie-points"):
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


def test_command(tmp_path: Path) -> None:
    """Another seed is another place."""
    command = ["simulate", str(tmp_path / "scene"), "--size", "300x240"]
    first = CliRunner().invoke(main, [*command, "--seed", "5", "--json"])
    assert first.exit_code == 0, first.output
    files = [Path(path) for path in json.loads(first.stdout).values()]
    assert {path.name for path in files} == NAMES
    with rasterio.open(files[0]) as file:
        assert file.shape == (240, 300)
    before = [path.read_bytes() for path in files]
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert [path.read_bytes() for path in files] == before
    assert CliRunner().invoke(main, [*command, "--overwrite"]).exit_code == 0
    assert all(path.read_bytes() != old for path, old in zip(files, before, strict=True))


@pytest.mark.parametrize("size", ["big", "300x", "x300", "300x300x3"])
def test_command_refuses_a_bad_size(tmp_path: Path, size: str) -> None:
    assert CliRunner().invoke(main, ["simulate", str(tmp_path / "scene"), "--size", size]).exit_code == 2
    assert not (tmp_path / "scene").exists()
