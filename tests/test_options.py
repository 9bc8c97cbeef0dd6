"""options: what a declaration takes, and the one line that says what is wrong."""

from typing import Annotated, Literal

import pytest
from annotated_types import Ge

from sn9reg.errors import ConfigError
from sn9reg.options import check, options


@options
class Inner:
    rate: float = 0.5


@options
class Options:
    count: Annotated[int, Ge(1)]
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()
    quick: bool = False
    inner: Inner = Inner()


def test_values_are_taken_as_json_has_them():
    given = {"count": 3, "sizes": [1, 2], "inner": {"rate": 1}}
    assert check(Options, given, "options") == Options(3, sizes=(1, 2), inner=Inner(1.0))


deep = []
for _ in range(100_000):
    deep = [deep]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 0}, "count is 0; input should be greater than or equal to 1"),
        ({"count": True}, "count is True; input should be a valid integer"),
        ({"count": 2.5}, "count is 2.5"),
        ({"count": "3"}, "count is '3'"),
        ({"kind": "c"}, "kind is 'c'; input should be 'a' or 'b'"),
        ({"quick": 1}, "quick is 1"),
        ({"sizes": [1, "2"]}, "sizes[1] is '2'"),
        ({"inner": {"rate": float("nan")}}, "inner.rate is "),
        ({"inner": {"speed": 1}}, "there is no option inner.speed"),
        ({"count": 10**5000}, "Exceeds the limit"),
        ({"sizes": deep}, "maximum recursion depth"),
        ({"colour": 1}, "there is no option colour; there are: count, kind, sizes, quick, inner"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change, words):
    with pytest.raises(ConfigError) as error:
        check(Options, {"count": 3} | change, "my options")
    assert str(error.value).startswith(f"my options: {words}")
    assert "\n" not in str(error.value)


def test_a_missing_value_is_named():
    with pytest.raises(ConfigError, match=r"^matcher x: count is missing$"):
        check(Options, {}, "matcher x")
