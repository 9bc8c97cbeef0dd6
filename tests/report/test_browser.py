"""The page in a browser: what can be moved moves, what can be pressed answers, and nothing complains."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image
from support.grids import constant
from support.rasters import SHIFT, TEXTURE_TRANSFORM, UTM, textures, write_raster

from sn9reg.raster.grid import Grid
from sn9reg.raster.scene import PairFiles
from sn9reg.report import write_report
from sn9reg.tiepoints import TiePoints

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; .ci/run installs it"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of a pair that fits exactly."""
    folder = tmp_path_factory.mktemp("page")
    optical, sar = textures()
    write_raster(folder / "o.tif", np.stack([optical, 255 - optical, optical[::-1]]), TEXTURE_TRANSFORM, UTM)
    write_raster(folder / "s.tif", sar[None], TEXTURE_TRANSFORM, UTM)
    offsets = constant(Grid(TEXTURE_TRANSFORM, 320, 280, UTM), *SHIFT, facts={"registered": "yes"})
    xy = np.random.default_rng(0).uniform(30, 240, (20, 2))
    points = TiePoints(xy, xy + SHIFT)
    return write_report(folder / "r", PairFiles(folder / "o.tif", folder / "s.tif"), offsets, tiepoints=points)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser, page):
    """The page, opened; in the end nothing may have been said on the console, nor asked of a network."""
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    opened, said, asked = context.new_page(), [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(page.as_uri())
    opened.wait_for_function("document.getElementById('canvas').dataset.shows")
    yield opened
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def shown(tab):
    """(h, w, 3) what is drawn now, once its images are there."""
    tab.wait_for_timeout(150)
    picture = np.asarray(Image.open(io.BytesIO(tab.locator("#canvas").screenshot())).convert("RGB")).astype(int)
    return picture[4:-4, 4:-4]  # the dividing line may stand at the rim


def colourful(picture):
    """(w,) how far each column is from grey: the optical image is coloured and the SAR image is not."""
    return np.ptp(picture, axis=2).mean(axis=0)


def test_the_slider_and_dragging_divide_the_two_images(tab):
    for share in (0.25, 0.75):
        tab.locator("#amount").fill(str(100 * share))
        colour = colourful(shown(tab)) > 12
        assert colour[: int(0.9 * share * len(colour))].all()
        assert not colour[int((share + 0.05) * len(colour)) :].any()
    box = tab.locator("#canvas").bounding_box()
    tab.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 50)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 60)
    tab.mouse.up()
    assert float(tab.locator("#amount").input_value()) == pytest.approx(20, abs=2)
    assert (colourful(shown(tab)) > 12).mean() == pytest.approx(0.2, abs=0.05)


def test_a_checkerboard_shows_both_everywhere_and_blinking_goes_to_and_fro(tab):
    tab.get_by_label("checkerboard").check()
    picture = np.ptp(shown(tab), axis=2) > 12
    assert all(0.3 < half.mean() < 0.7 for half in np.array_split(picture, 2, axis=1))
    assert tab.locator("#amount-name").inner_text() == "Size of tiles"
    tab.get_by_label("blink").check()
    seen = set()
    for k in range(40):  # at uneven times, for a slow machine's pictures may keep time with the blinking
        seen.add(bool((colourful(shown(tab)) > 12).mean() > 0.5))
        if len(seen) == 2:
            break
        tab.wait_for_timeout(100 + 37 * k)
    assert seen == {True, False}
    assert tab.locator("#amount").is_disabled()


def test_images_and_places_can_be_chosen_by_keyboard_too(tab):
    tab.locator("#left").select_option("before")
    tab.locator("#amount").fill("100")
    before = shown(tab)
    tab.locator("#left").select_option("after")
    assert colourful(before).max() < 6
    assert np.abs(before - shown(tab)).mean() > 5
    tab.locator("#view").select_option("1")
    assert "full resolution" in tab.locator("#where").inner_text()
    tab.locator("#view").select_option("0")
    for key, mode in (("c", "checkerboard"), ("b", "blink"), ("s", "swipe")):
        tab.keyboard.press(key)
        assert tab.locator(f"input[value={mode}]").is_checked()
    for key, control, value in (("2", "#view", "1"), ("x", "#right", "before"), ("x", "#right", "after")):
        tab.keyboard.press(key)
        assert tab.locator(control).input_value() == value
    tab.locator("#canvas").focus()
    before = float(tab.locator("#amount").input_value())
    tab.keyboard.press("ArrowLeft")
    assert float(tab.locator("#amount").input_value()) < before
    # Everything that can be moved is reached by Tab alone.
    tab.locator("body").click(position={"x": 1, "y": 1})
    reached = set()
    for _ in range(12):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id || document.activeElement.name"))
    assert {"view", "mode", "left", "right", "amount", "canvas"} <= reached


def contrast(tab, selector):
    """Of the ink of an element to the ground behind it, as WCAG counts it."""
    colours = tab.evaluate(
        """selector => { const e = document.querySelector(selector); let g = e;
        const clear = c => c === 'rgba(0, 0, 0, 0)';
        while (g && clear(getComputedStyle(g).backgroundColor)) g = g.parentElement;
        const colours = [getComputedStyle(e).color, getComputedStyle(g).backgroundColor];
        return colours.map(c => c.match(/[\\d.]+/g).slice(0, 3).map(Number)); }""",
        selector,
    )
    channels = np.array(colours) / 255
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_in_the_dark(tab, scheme):
    tab.emulate_media(color_scheme=scheme)
    grounds = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (grounds == "rgb(255, 255, 255)") == (scheme == "light")
    for selector in ("h1", ".verdict", ".hint", "figcaption", "td", "select", "#amount-name"):
        assert contrast(tab, selector) >= 4.5, selector


def test_in_print_the_controls_are_gone_and_the_figures_are_there(tab):
    tab.emulate_media(media="print", color_scheme="dark")
    assert not tab.locator("#controls").is_visible()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for name in ("before_after", "arrows", "offsets", "residuals"):
        image = tab.locator(f"#{name} img")
        assert image.is_visible()
        assert image.evaluate("image => image.complete && image.naturalWidth > 300")
    assert len(tab.pdf()) > 50_000
