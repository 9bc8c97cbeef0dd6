"""pipeline: the contract of all that ship, which setting goes before which, and files that are none."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import refused, run

from sn9reg import register
from sn9reg.errors import ConfigError
from sn9reg.matchers import DEFAULT_MATCHER
from sn9reg.pipeline import Pipeline, chosen, read_pipeline, shipped

NAMES = list(shipped())


@pytest.mark.parametrize("name", NAMES)
def test_every_pipeline_that_ships_registers_a_small_pair(name, small_files):
    made = read_pipeline(name)
    assert made.about
    found = register(*small_files, pipeline=name, matcher_options={"max_offset": 10.0})
    assert found.registered, found.verdict.reason
    assert found.matcher == made.matcher
    assert made.model in ("auto", found.warp.model)


def test_the_best_is_what_is_done_without_one():
    assert replace(read_pipeline("best"), about="") == Pipeline() == chosen()
    assert Pipeline().matcher == DEFAULT_MATCHER


def test_spacenet9_is_the_published_shape():
    made = read_pipeline("spacenet9")
    assert (made.matcher, made.ratio_filter, made.model) == ("keypoints+descriptors", True, "affine")
    assert made.pose == "none"


def test_what_is_given_goes_before_the_file_and_options_one_by_one(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "about: mine\nmatcher: ncc+structure\nmodel: affine\nthreshold: 4\nratio_filter: true\n"
        "matcher_options: {max_offset: 20, ncc.template: 48, structure.template: 64, structure.max_offset: 30}\n"
    )
    options = {"max_offset": 20, "ncc.template": 48, "structure.template": 64, "structure.max_offset": 30}
    assert chosen(path, model=None) == Pipeline("mine", "ncc+structure", options, "affine", 4.0, True)
    given = {"matcher_options": {"structure.template": 32, "max_offset": 9.0}}
    found = chosen(path, **given, model="local", ratio_filter=False)
    options = {"ncc.template": 48, "structure.template": 32, "max_offset": 9.0}
    assert found == Pipeline("mine", "ncc+structure", options, "local", 4.0, False)
    with pytest.raises(ConfigError, match="names a matcher itself: leave out --pipeline or --matcher"):
        chosen(path, matcher="ncc")


def test_on_the_command_line_a_pipeline_is_its_settings(small_pair, monkeypatch):
    asked = {}
    monkeypatch.setattr("sn9reg.registration.register", lambda *_, **given: asked.update(given) or 1 / 0)
    Path("mine.yml").write_text("matcher: ncc\nmatcher_options: {max_offset: 20, template: 48}\nratio_filter: true\n")
    run("align o.tif s.tif --out x.tif --pipeline mine.yml --no-ratio-filter --max-offset 9 --device cpu")
    settings = Pipeline("", "ncc", {"template": 48, "max_offset": 9.0}).settings()
    assert {name: asked[name] for name in [*settings, "device"]} == settings | {"device": "cpu"}
    assert "pipeline" not in asked


def test_the_list():
    assert "spacenet9: The shape of SpaceNet 9's baseline" in run("pipelines").stdout


BAD = {
    "matcher: [ncc": ("is not YAML", 1),
    "- ncc": ("is ['ncc'], not a mapping", 2),
    "matcher: ncc\ncolour: 1": ("no option colour; there are: about, matcher", 2),
    "2020-01-01: x": ("keys must be str", 2),
    "matcher: 5": ("matcher is 5", 2),
    "model: best": ("model is 'best'", 2),
    "pose: maybe": ("pose is 'maybe'", 2),
    "threshold: 0": ("threshold is 0", 2),
    "matcher: nonesuch": ("no matcher 'nonesuch'; there are: ", 2),
    "matcher: ncc+ncc": ("the source ncc is given twice", 2),
    "matcher: ncc+structure\nmatcher_options: {template: 48}": ("say ncc.template or structure.template", 2),
    "matcher: ncc\nmatcher_options: {template: abc}": ("template is 'abc'", 2),
    "matcher: structure+mcgf": ("no weights of mcgf ship with sn9reg: name a file", 1),
}


@pytest.mark.parametrize("text", BAD)
def test_a_file_that_is_no_pipeline(small_pair, text):
    words, code = BAD[text]
    Path("bad.yaml").write_text(text)
    refused("align o.tif s.tif --out x.tif --pipeline bad.yaml", words, "bad.yaml", codes=(code,))


@pytest.mark.parametrize(
    ("given", "words", "code"),
    [
        ("nonesuch", "no pipeline 'nonesuch'; there are: best, spacenet9", 2),
        ("", "no pipeline ''", 2),
        ("none.yaml", "none.yaml: no such file", 1),
        ("best --matcher ncc", "pipeline best names a matcher itself", 2),
        ("best --matcher-option colour=1", "there is no option colour", 2),
    ],
)
def test_a_pipeline_that_there_is_not(small_pair, given, words, code):
    refused(f"align o.tif s.tif --out x.tif --pipeline {given}", words, codes=(code,))
