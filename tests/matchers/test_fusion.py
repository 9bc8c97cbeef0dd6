"""fusion: several matchers as one, the options of each, and a source that fails."""

import logging
from functools import partial

import pytest
from support.matches import lattice, matched

from sn9reg.errors import ConfigError, InputError
from sn9reg.matchers.base import checked_matchers, make_matcher
from sn9reg.matchers.fusion import FusedMatcher, options_by_source


class Made:
    """A matcher that finds so many matches, all alike, or fails."""

    def __init__(self, count=0, error=None):
        self.count, self.error = count, error

    def match(self, _pair):
        if self.error:
            raise self.error
        xy = lattice(30, 200, 4000)[: self.count]
        return matched(xy, xy + 5, tried=max(900, self.count))


def refuse():
    raise InputError("w.safetensors: no such file")


def test_the_source_that_confirms_itself_most_is_first_and_every_match_knows_its_own():
    found = FusedMatcher({"few": partial(Made, 60), "none": Made, "many": partial(Made, 600)}).match(None)
    assert list(found.sources) == ["many", "few", "none"]
    assert [len(part) for part in found.parts().values()] == [600, 60, 0]
    assert found.tried == 2700


def test_a_source_that_fails_is_a_warning_and_not_the_end(caplog):
    caplog.set_level(logging.WARNING)
    broken = partial(Made, 9, ValueError("wrong\nshape"))
    matcher = FusedMatcher({"good": partial(Made, 9), "lost": refuse, "broken": broken})
    assert list(matcher.match(None).sources) == ["good"]
    assert (matcher.name, list(matcher.sources)) == ("good+lost+broken", ["good", "broken"])
    assert [record.getMessage() for record in caplog.records] == [
        "lost failed: w.safetensors: no such file; the others go on without it",
        "broken failed: ValueError: wrong shape; the others go on without it",
    ]
    with pytest.raises(InputError, match=r"every source of lost\+broken failed; the last: broken failed: .*wrong"):
        FusedMatcher({"lost": refuse, "broken": broken}).match(None)
    with pytest.raises(InputError, match="every source of lost failed"):
        FusedMatcher({"lost": refuse})


def test_an_option_goes_to_the_source_that_has_it_and_a_larger_offset_to_all():
    given = {"keypoints.max_points": 7, "max_offset": 9.0, "template": 48, "hybrid.max_offset": 8.0}
    assert options_by_source(["keypoints", "hybrid"], given) == {
        "keypoints": {"max_points": 7, "max_offset": 9.0}, "hybrid": {"max_offset": 8.0, "template": 48},
    }  # fmt: skip
    matcher = make_matcher("structure+ncc", **{"ncc.template": 64, "max_offset": 5.0})
    assert [source.options.template for source in matcher.sources.values()] == [96, 64]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("hybrid+nonesuch", {}, "no matcher 'nonesuch'; there are: "),
        ("hybrid+", {}, r"matcher 'hybrid\+': the name of a source is missing"),
        ("ncc+hybrid+ncc", {}, r"matcher 'ncc\+hybrid\+ncc': the source ncc is given twice"),
        ("keypoints+descriptors", {"max_points": 3}, "say keypoints.max_points or descriptors.max_points"),
        ("hybrid+ncc", {"colour": 1}, r"matcher 'hybrid\+ncc': none of its sources has an option colour"),
        ("hybrid+ncc", {"ncc.colour": 1}, "matcher 'ncc': there is no option colour"),
        ("hybrid+ncc", {"sift.near": True}, "sift.near: sift is none of the sources; there are: hybrid, ncc"),
        ("hybrid+ncc", {"ncc.template": 0}, "matcher 'ncc': template is 0"),
        ("hybrid+ncc:fast", {}, "matcher 'ncc' has no variants"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(name, options, words):
    with pytest.raises(ConfigError, match=words):
        checked_matchers(name, options)
