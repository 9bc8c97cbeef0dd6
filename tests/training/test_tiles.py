"""training.tiles: scenes in SpaceNet 9's layout, and the tiles around their tie-points."""

import shutil

import numpy as np
import pytest
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
KINDS = [("optical", ".tif"), ("sar", ".tif"), ("tiepoints", ".csv")]
HEADER = "sar_row,sar_col,optical_row,optical_col"


def blobs(shape, places, random):
    """(1, h, w) faint noise, and a bright blob at each (col, row)."""
    image = np.zeros(shape, np.float32)
    for col, row in places:
        image[row, col] = 1
    image = gaussian_filter(image, 2.5)
    noise = random.normal(0, 2, shape)
    return np.clip(60 + noise + 180 * image / image.max(), 1, 255).astype(np.uint8)[None]


def pixels(transform, x, y):
    """The pixel (col, row) that holds a place, given in metres right of and below the optical image's corner."""
    col, row = ~transform * (OPTICAL.c + x, OPTICAL.f - y)
    return int(col), int(row)


def centre(transform, col, row):
    """Of a pixel, in pixels of 0.4 m of the SAR image's lattice."""
    x, y = transform * (col + 0.5, row + 0.5)
    return np.array([(x - SAR.c) / 0.4 - 0.5, (SAR.f - y) / 0.4 - 0.5])


def write_scene(folder, points, stem="02_{}_train_01"):
    """A scene with a blob at both places of each tie-point."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    optical = [pixels(OPTICAL, *here) for here, _ in points]
    sar = [pixels(SAR, *np.add(here, by)) for here, by in points]
    for kind, transform, shape, places in (("optical", OPTICAL, OPTICAL_SHAPE, optical), ("sar", SAR, SAR_SHAPE, sar)):
        write_raster(folder / f"{stem.format(kind)}.tif", blobs(shape, places, random), transform, UTM)
    rows = [f"{s[1]},{s[0]},{o[1]},{o[0]}" for s, o in zip(sar, optical, strict=True)]
    csv = folder / f"{stem.format('tiepoints')}.csv"
    csv.write_text("\n".join([HEADER, *rows]))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Do not write into it."""
    return write_scene(tmp_path_factory.mktemp("tiles") / "scene", [*INSIDE, BORDER, *FAR])


@pytest.fixture(scope="module")
def scene(folder):
    return scene_files(folder)[0]


@pytest.fixture
def copied(folder, tmp_path):
    """Files that may be changed."""
    return scene_files(shutil.copytree(folder, tmp_path / "copy"))[0]


@pytest.fixture(scope="module", params=["sar", "optical"])
def finds(request):
    return request.param


@pytest.fixture(scope="module")
def made(scene, finds):
    return tile_set(scene, finds, SIDE)


def keypoints(points):
    """(N, 2) optical and SAR keypoints as the CSV has them, on the SAR image's lattice."""
    optical = [centre(OPTICAL, *pixels(OPTICAL, *here)) for here, _ in points]
    return np.array(optical), np.array([centre(SAR, *pixels(SAR, *np.add(here, by))) for here, by in points])


def blob(image):
    """(x, y) of the only blob in an image."""
    weight = np.clip(image - 2.5, 0, None)
    y, x = np.mgrid[: len(image), : len(image)]
    assert weight.sum() > 3, "there is no blob"
    spread = np.sqrt((weight * ((x - np.average(x, weights=weight)) ** 2)).sum() / weight.sum())
    assert spread < 5, "there are several"
    return np.array([np.average(x, weights=weight), np.average(y, weights=weight)])


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("")


# scenes


def test_scenes_are_found_at_any_depth_by_path(tmp_path):
    for where, stem in (("b/deep/er", "03_{}_train_01"), ("a", "02_{}_val_07"), ("a", "02_{}_train_01")):
        touch(tmp_path / where, *(stem.format(kind) + end for kind, end in KINDS))
    touch(tmp_path, "readme_optical.tif", "02_offsets_train_01.tif")
    found = scene_files(tmp_path)
    assert [scene.name for scene in found] == ["02_train_01", "02_val_07", "03_train_01"]
    deep = tmp_path / "b" / "deep" / "er"
    assert found[2] == SceneFiles(
        "03_train_01",
        deep / "03_optical_train_01.tif",
        deep / "03_sar_train_01.tif",
        deep / "03_tiepoints_train_01.csv",
    )
    assert scene_files(str(deep)) == found[2:]


@pytest.mark.parametrize("missing", ["02_sar_train_01.tif", "02_tiepoints_train_01.csv"])
def test_a_missing_partner_is_named(tmp_path, missing):
    touch(tmp_path / "in", *{f"02_{kind}_train_01{end}" for kind, end in KINDS} - {missing})
    touch(tmp_path / "elsewhere", missing)
    with pytest.raises(InputError, match=rf"02_optical_train_01\.tif: has no partner {missing} beside it"):
        scene_files(tmp_path)


def test_a_folder_without_scenes_is_said(tmp_path):
    touch(tmp_path, "02_sar_train_01.tif", "02_tiepoints_train_01.csv", "optical.tif")
    with pytest.raises(InputError, match="holds no scene"):
        scene_files(tmp_path)


@pytest.mark.parametrize("name", ["none", "file.txt"])
def test_a_folder_that_is_not_there(tmp_path, name):
    touch(tmp_path, "file.txt")
    with pytest.raises(InputError, match=f"{name}: no such folder"):
        scene_files(tmp_path / name)


# tiles


def test_tiles_are_centred_on_one_keypoint_and_say_where_the_other_is(made, finds):
    middle, searched = (0, 1) if finds == "sar" else (1, 0)
    wanted = keypoints([*INSIDE, BORDER])
    assert made.values.shape == (len(made), 2, SIDE, SIDE)
    assert made.values.dtype == np.int8
    assert len(made) == len(INSIDE) + 1
    for k in range(len(made)):
        images = made.images(k)
        corner = np.rint(wanted[middle][k]) - SIDE // 2
        np.testing.assert_allclose(made.place[k], wanted[searched][k] - corner, atol=1e-3)
        np.testing.assert_allclose(blob(images[middle]), [SIDE // 2] * 2, atol=0.75)
        np.testing.assert_allclose(blob(images[searched]), made.place[k], atol=0.35)


def test_places_differ_by_what_lies_between_the_keypoints(made, finds):
    optical, sar = keypoints(INSIDE)
    shift = (sar - optical) * (1 if finds == "sar" else -1)
    np.testing.assert_allclose(made.place[: len(INSIDE)] - SIDE // 2, shift, atol=0.51)
    assert np.abs(shift).max() > 20


def test_images_are_standardised_optical_first(made):
    for k in range(len(INSIDE)):
        images = made.images(k)
        assert images.shape == (2, SIDE, SIDE)
        assert images.dtype == np.float32
        np.testing.assert_allclose(images, made.values[k] * (4 / 127), rtol=1e-6)
        assert images.max() == pytest.approx(4)  # of the blob
        assert np.abs(np.median(images, axis=(1, 2))).max() < 0.4


def test_sar_is_on_the_logarithm(tmp_path):
    """What is 2.5 times as dark as the middle differs from it as much as what is 2.5 times as bright."""
    grey = np.full((1, 300, 300), 100, np.float32)
    grey[:, :, :130], grey[:, :, 158:] = 40, 250
    for kind in ("optical", "sar"):
        write_raster(tmp_path / f"02_{kind}_train_01.tif", grey, SAR, UTM)
    (tmp_path / "02_tiepoints_train_01.csv").write_text(f"{HEADER}\n144,144,144,144")
    optical, sar = tile_set(scene_files(tmp_path)[0], "sar", SIDE).images(0)[:, 32, [5, 32, 60]]
    assert optical[1] - optical[0] == pytest.approx(60 / 150 * (optical[2] - optical[1]), rel=0.05)
    assert sar[1] - sar[0] == pytest.approx(sar[2] - sar[1], rel=0.15)


def test_beyond_a_scenes_border_there_are_zeros(made, finds):
    """The SAR image reaches 5 m, 12.5 px, farther to the left than the optical one."""
    optical, sar = made.images(len(INSIDE))
    middle = keypoints([BORDER])[0 if finds == "sar" else 1][0]
    left = SIDE // 2 - round(middle[0])  # column of the tile in which the common grid starts
    assert left > 5
    assert not sar[:, :left].any()
    assert not optical[:, : left + 12].any()
    for image, first in ((sar, left), (optical, left + 13)):
        assert (image[:, first:] != 0).any(axis=0).all()


def test_partners_outside_the_tile_are_left_out_and_counted(made, scene, finds):
    assert made.outside == len(FAR)
    assert ((made.place >= 0) & (made.place <= SIDE - 1)).all()
    larger = tile_set(scene, finds, 96)
    assert larger.outside == 0
    assert len(larger) == len(INSIDE) + 1 + len(FAR)


def test_a_scene_whose_partners_are_all_outside_has_no_tiles(tmp_path, finds):
    none = tile_set(scene_files(write_scene(tmp_path, FAR))[0], finds, SIDE)
    assert (len(none), none.outside) == (0, 2)
    assert none.values.shape == (0, 2, SIDE, SIDE)


def test_one_tie_point_is_enough(tmp_path, finds):
    one = tile_set(scene_files(write_scene(tmp_path, INSIDE[1:2]))[0], finds, SIDE)
    assert (len(one), one.outside) == (1, 0)
    np.testing.assert_allclose(blob(one.images(0)[1 if finds == "sar" else 0]), one.place[0], atol=0.35)


# the cache


@pytest.fixture
def forbidden(monkeypatch):
    def cut(*arguments):
        raise AssertionError("tiles are cut again")

    return lambda: monkeypatch.setattr(tiles, "_cut", cut)


def same(one, other):
    return np.array_equal(one.values, other.values) and np.array_equal(one.place, other.place)


@pytest.mark.parametrize("cut", [INSIDE, FAR], ids=["tiles", "none"])
def test_the_second_time_tiles_come_from_the_cache(cut, tmp_path, forbidden):
    scene = scene_files(write_scene(tmp_path / "scene", cut))[0]
    fresh = tile_set(scene, "sar", SIDE)
    first = tile_set(scene, "sar", SIDE, tmp_path / "deep" / "cache")
    forbidden()
    second = tile_set(scene, "sar", SIDE, tmp_path / "deep" / "cache")
    assert same(first, fresh)
    assert same(second, fresh)
    assert first.outside == second.outside == fresh.outside
    assert isinstance(second.values, np.memmap)
    assert second.place.dtype == np.float32


def test_the_cache_knows_what_is_found_and_the_side(scene, tmp_path):
    for finds in ("sar", "optical"):
        for side in (SIDE, 48):
            assert same(tile_set(scene, finds, side, tmp_path), tile_set(scene, finds, side))


def test_scenes_of_one_name_do_not_share_tiles(tmp_path):
    one, other = (scene_files(write_scene(tmp_path / n, p))[0] for n, p in (("a", INSIDE), ("b", INSIDE[:2])))
    assert [len(tile_set(scene, "sar", SIDE, tmp_path / "cache")) for scene in (one, other)] == [5, 2]


def test_a_dot_in_a_scenes_name_parts_nothing(tmp_path):
    (scene,) = scene_files(write_scene(tmp_path / "a", INSIDE, "02_{}_train_01.5"))
    sides = [tile_set(scene, "sar", side, tmp_path / "cache").values.shape[-1] for side in (64, 48)]
    assert sides == [64, 48]
    assert len(list((tmp_path / "cache").iterdir())) == 4


@pytest.mark.parametrize("change", ["tie-points", "image"])
def test_changed_files_make_new_tiles(copied, tmp_path, change):
    before = tile_set(copied, "sar", SIDE, tmp_path / "cache")
    if change == "tie-points":
        copied.tiepoints.write_text("\n".join(copied.tiepoints.read_text().splitlines()[:3]))
    else:
        values = np.random.default_rng(1).integers(1, 255, (1, *SAR_SHAPE), np.uint8)
        write_raster(copied.sar, values, SAR, UTM, compress="deflate")
    after = tile_set(copied, "sar", SIDE, tmp_path / "cache")
    assert same(after, tile_set(copied, "sar", SIDE))
    assert not same(after, before)
    assert len(after) == (2 if change == "tie-points" else len(before))


def test_what_is_cached_is_whole_or_not_there(copied, tmp_path, monkeypatch):
    """Interrupted between the tiles and what belongs to them, they are cut once more."""

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiles, "_fingerprint", lambda scene: "same")
    with monkeypatch.context() as patch:
        patch.setattr(tiles.json, "dumps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tile_set(copied, "sar", SIDE, tmp_path / "cache")
    assert same(tile_set(copied, "sar", SIDE, tmp_path / "cache"), tile_set(copied, "sar", SIDE))


# what cannot be used


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sar_row,sar_col,optical_row\n1,2,3", "has no column optical_col"),
        ("", "is empty"),
        (HEADER, "no tie-points"),
        (f"{HEADER}\n10,10,20,20\n10,x,20,20", "line 3: sar_col is 'x', not a number"),
        (f"{HEADER}\n10,10,420,20", "line 2: row 420, column 20 lies outside the optical image"),
        (f"{HEADER}\n10,10,20,20\n10,-1,20,20", "line 3: row 10, column -1 lies outside the SAR image"),
        (f"{HEADER}\n4000,9000,5000,11000", "line 2: row 5000, column 11000 lies outside"),
    ],
    ids=["column", "empty", "no points", "no number", "optical", "sar", "another scene's"],
)
def test_tie_points_that_cannot_be_used_are_named(copied, tmp_path, text, message):
    copied.tiepoints.write_text(text)
    for cache in (None, tmp_path / "cache"):
        with pytest.raises(InputError) as caught:
            tile_set(copied, "sar", SIDE, cache)
        assert str(caught.value).startswith(str(copied.tiepoints))
        assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["optical", "sar"])
def test_an_image_that_is_none_is_named(copied, kind):
    getattr(copied, kind).write_text("no raster")
    with pytest.raises(InputError, match=f"02_{kind}_train_01"):
        tile_set(copied, "sar", SIDE)
