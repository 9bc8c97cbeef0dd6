"""training.tiles: scenes in SpaceNet 9's layout, and the tiles around their tie-points."""

import shutil

import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy.ndimage import gaussian_filter
from support.rasters import UTM, write_raster

from sn9reg.errors import InputError
from sn9reg.training import tiles
from sn9reg.training.tiles import SceneFiles, scene_files, tile_set

SIDE = 64
OPTICAL = Affine(0.3, 0, 435000, 0, -0.3, 4181000)
OPTICAL_SHAPE = (420, 560)  # rows, columns: 126 x 168 m
SAR = Affine(0.4, 0, 434995, 0, -0.4, 4181006.4)
SAR_SHAPE = (360, 460)  # 144 x 184 m: on all sides farther than the optical image
# Metres from the optical image's corner to a tie-point, and from there to its partner. Only one is in each tile.
INSIDE = [((30, 30), (0, 0)), ((72, 34), (9, -6)), ((120, 30), (-8, 7.2)), ((40, 84), (5.2, 5.2)), ((96, 90), (-11, 3))]
BORDER = ((1, 62), (4, 2))
FAR = [((70, 62), (15, 0)), ((150, 100), (-3, -17))]
FILES = ["02_optical_train_01.tif", "02_sar_train_01.tif", "02_tiepoints_train_01.csv"]
HEADER = "sar_row,sar_col,optical_row,optical_col"


def blobs(shape, places, random):
    """(1, h, w) faint noise, and a bright blob at each (col, row)."""
    image = np.zeros(shape, np.float32)
    for col, row in places:
        image[row, col] = 1
    image = gaussian_filter(image, 2.5)
    noise = random.normal(0, 2, shape)
    return np.clip(60 + noise + 180 * image / image.max(), 1, 255).astype(np.uint8)[None]


def pixels(points):
    """The pixels (col, row) that hold the tie-points, in the optical and in the SAR image."""
    places = [[(OPTICAL.c + x, OPTICAL.f - y), (OPTICAL.c + x + dx, OPTICAL.f - y - dy)] for (x, y), (dx, dy) in points]
    found = [[~transform * at for transform, at in zip((OPTICAL, SAR), pair, strict=True)] for pair in places]
    return np.array(found).astype(int).transpose(1, 0, 2)


def keypoints(points):
    """(N, 2) optical and SAR keypoints as the CSV has them: the pixels' centres, on the SAR image's lattice."""
    optical, sar = pixels(points)
    return [(~SAR * (OPTICAL * tuple(xy + 0.5))) - np.array(0.5) for xy in optical], sar


def write_scene(folder, points, number="01"):
    """A scene with a blob at both places of each tie-point."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    optical, sar = pixels(points)
    for kind, transform, shape, places in (("optical", OPTICAL, OPTICAL_SHAPE, optical), ("sar", SAR, SAR_SHAPE, sar)):
        write_raster(folder / f"02_{kind}_train_{number}.tif", blobs(shape, places, random), transform, UTM)
    rows = [f"{s[1]},{s[0]},{o[1]},{o[0]}" for s, o in zip(sar, optical, strict=True)]
    (folder / f"02_tiepoints_train_{number}.csv").write_text("\n".join([HEADER, *rows]))
    return scene_files(folder)[0]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Do not write into it."""
    return write_scene(tmp_path_factory.mktemp("tiles") / "scene", [*INSIDE, BORDER, *FAR])


@pytest.fixture
def copied(scene, tmp_path):
    """Files that may be changed."""
    return scene_files(shutil.copytree(scene.optical.parent, tmp_path / "copy"))[0]


def blob(image):
    """(x, y) of the only blob in an image."""
    weight = np.clip(image - 2.5, 0, None)
    y, x = np.mgrid[: len(image), : len(image)]
    assert weight.sum() > 3, "there is no blob"
    middle = np.average([x, y], weights=[weight, weight], axis=(1, 2))
    assert np.average((x - middle[0]) ** 2, weights=weight) < 25, "there are several"
    return middle


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("")


def test_scenes_are_found_at_any_depth_by_path(tmp_path):
    deep, flat = tmp_path / "b" / "deep" / "er", tmp_path / "a"
    for folder, area, rest in ((deep, "03", "train_01"), (flat, "02", "val_07"), (flat, "02", "train_01")):
        touch(folder, f"{area}_optical_{rest}.tif", f"{area}_sar_{rest}.tif", f"{area}_tiepoints_{rest}.csv")
    touch(tmp_path, "readme_optical.tif", "02_offsets_train_01.tif")
    found = scene_files(tmp_path)
    assert [scene.name for scene in found] == ["02_train_01", "02_val_07", "03_train_01"]
    names = "03_optical_train_01.tif", "03_sar_train_01.tif", "03_tiepoints_train_01.csv"
    assert scene_files(str(deep)) == found[2:] == [SceneFiles("03_train_01", *(deep / name for name in names))]


def test_folders_without_whole_scenes(tmp_path):
    touch(tmp_path / "1", FILES[0], FILES[2])
    touch(tmp_path / "2", *FILES[:2])
    touch(tmp_path / "3", *FILES[1:], "optical.tif")
    for where, words in (
        ("1", rf"{FILES[0]}: has no partner {FILES[1]} beside it"),
        ("2", rf"{FILES[0]}: has no partner {FILES[2]} beside it"),
        ("3", "holds no scene"),
        ("none", "none: no such folder"),
        (f"1/{FILES[0]}", "no such folder"),
    ):
        with pytest.raises(InputError, match=words):
            scene_files(tmp_path / where)


@pytest.mark.parametrize(("finds", "centred", "searched"), [("sar", 0, 1), ("optical", 1, 0)])
def test_tiles_are_centred_on_one_keypoint_and_say_where_the_other_is(finds, centred, searched, scene):
    """Those whose partner lies outside the tile are left out and counted."""
    made, wanted = tiles._cut(scene, finds, SIDE), keypoints([*INSIDE, BORDER])
    assert made.values.shape == (len(made), 2, SIDE, SIDE) == (len(INSIDE) + 1, 2, SIDE, SIDE)
    assert made.values.dtype == np.int8
    for k in range(len(made)):
        images = made.images(k)
        np.testing.assert_allclose(images, made.values[k] * (4 / 127), rtol=1e-6)
        corner = np.rint(wanted[centred][k]) - SIDE // 2
        np.testing.assert_allclose(made.place[k], wanted[searched][k] - corner, atol=1e-3)
        np.testing.assert_allclose(blob(images[centred]), [SIDE // 2] * 2, atol=0.75)
        np.testing.assert_allclose(blob(images[searched]), made.place[k], atol=0.35)
        if k < len(INSIDE):
            assert images.max() == pytest.approx(4)  # of the blob
            assert np.abs(np.median(images, axis=(1, 2))).max() < 0.4
    assert made.outside == len(FAR)
    larger = tiles._cut(scene, finds, 96)
    assert (larger.outside, len(larger)) == (0, len(INSIDE) + 1 + len(FAR))


def test_tiles_of_three_bands_keep_their_colours_and_have_a_cache_of_their_own(copied, tmp_path):
    grey = tile_set(copied, "sar", tmp_path, SIDE)
    thrice = tile_set(copied, "sar", tmp_path, SIDE, bands=3)
    for k in range(len(grey)):
        np.testing.assert_array_equal(thrice.values[k], grey.values[k][[0, 0, 0, 1]])
    with rasterio.open(copied.optical) as image:
        values = image.read(1)
    write_raster(copied.optical, np.stack([values, values.max() - values, values]), OPTICAL, UTM)
    colours = tile_set(copied, "sar", tmp_path, SIDE, bands=3)
    np.testing.assert_array_equal(colours.values[:, [0, 2, 3]], thrice.values[:, [0, 2, 3]])
    assert all(np.corrcoef(red.ravel(), green.ravel())[0, 1] < -0.9 for red, green, *_ in colours.values)


def same(one, other):
    arrays = np.array_equal(one.values, other.values) and np.array_equal(one.place, other.place)
    return arrays and one.outside == other.outside and one.place.dtype == other.place.dtype


def test_the_second_time_tiles_come_from_the_cache(tmp_path, monkeypatch):
    """That of what is found, of the side, and of the scene, whose name may have a dot or be another's, too."""
    cache, scene = tmp_path / "deep" / "cache", write_scene(tmp_path / "a", INSIDE[:2], "01.5")
    every = [(scene, "sar", SIDE), (scene, "sar", 48), (scene, "optical", SIDE)]
    every.append((write_scene(tmp_path / "b", FAR, "01.5"), "sar", SIDE))  # has no tiles
    first = [tile_set(*what, cache, side) for *what, side in every]
    monkeypatch.setattr(tiles, "_cut", None)  # not cut again
    again = [tile_set(*what, cache, side) for *what, side in every]
    assert all(map(same, first, again))
    assert isinstance(again[0].values, np.memmap)
    assert (again[3].outside, again[3].values.shape) == (2, (0, 2, SIDE, SIDE))
    assert len(list(cache.iterdir())) == 2 * len(every)


def test_changed_files_make_new_tiles_and_what_is_cached_is_whole_or_not_there(copied, tmp_path):
    """Interrupted between the tiles and what belongs to them, they are cut once more."""
    cache = tmp_path / "cache"
    made = [tile_set(copied, "sar", cache, SIDE)]
    copied.tiepoints.write_text("\n".join(copied.tiepoints.read_text().splitlines()[:3]))
    made.append(tile_set(copied, "sar", cache, SIDE))
    values = np.random.default_rng(1).integers(1, 255, (1, *SAR_SHAPE), np.uint8)
    write_raster(copied.sar, values, SAR, UTM, compress="deflate")
    made.append(tile_set(copied, "sar", cache, SIDE))
    assert not same(made[0], made[1])
    assert not same(made[1], made[2])
    for file in cache.iterdir():
        file.unlink() if file.suffix == ".json" else file.write_bytes(b"half")
    assert same(tile_set(copied, "sar", cache, SIDE), tiles._cut(copied, "sar", SIDE))


def test_what_cannot_be_used_is_named(copied, tmp_path):
    copied.tiepoints.write_text(f"{HEADER}\n10,10,20,20\n10,-1,20,20")
    with pytest.raises(InputError, match=r"\.csv.*line 3: row 10, column -1 lies outside the SAR image"):
        tiles._cut(copied, "sar", SIDE)
    for kind in ("tiepoints", "sar", "optical"):
        getattr(copied, kind).write_text("nothing")
        with pytest.raises(InputError, match=f"02_{kind}_train_01"):
            tile_set(copied, "sar", tmp_path / "cache", SIDE)
