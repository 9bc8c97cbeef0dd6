"""progress and the bar: who listens hears fractions of the whole, and a bar is shown where somebody looks."""

import io
import logging
import time
from contextlib import redirect_stderr

import pytest
from tqdm import tqdm

from sn9reg.cli import options
from sn9reg.cli.options import progress_bar
from sn9reg.progress import listening, part, report


@pytest.fixture
def heard():
    """What was reported while the test ran."""
    fractions = []
    with listening(fractions.append):
        yield fractions


def test_a_part_is_a_fraction_of_what_is_around_and_none_is_below_0_or_above_1(heard):
    for fraction in (-0.1, 0.25, 1.1):
        report(fraction)
    with part(0.2, 0.4):
        report(-7)
        report(7)
    with part(0.5, 1):
        report(0.5)
        with part(0, 0.5):
            for fraction in (0, 0.4, 1):
                report(fraction)
        report(1)
    report(0.1)
    assert heard == pytest.approx([0, 0.25, 1, 0.2, 0.4, 0.75, 0.5, 0.6, 0.75, 1, 0.1])


def test_work_that_breaks_off_leaves_the_listener_of_before(heard):
    for context in (part(0.5, 0.6), listening(lambda fraction: None)):
        with pytest.raises(ValueError, match="broken"), context:
            raise ValueError("broken")
        report(0.4)
    assert heard == [0.4, 0.4]


def test_only_the_innermost_listens_and_nobody_afterwards():
    outer, inner = [], []
    with listening(outer.append):
        with listening(inner.append):
            report(0.3)
        report(0.6)
    report(0.9)
    assert (outer, inner) == ([0.6], [0.3])


# --- the bar ---------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def at_once(request, monkeypatch):
    """Bars are shown without delay, but where a test is about it."""
    if "delay" not in request.node.name:
        monkeypatch.setattr(options, "_DELAY", 0)


@pytest.mark.parametrize(
    ("stream", "level", "shown"),
    [(Terminal, logging.WARNING, True), (Terminal, logging.ERROR, False), (io.StringIO, logging.WARNING, False)],
)
def test_a_bar_is_shown_on_a_terminal_to_who_does_not_want_quiet(stream, level, shown, caplog):
    quiet = caplog.at_level(level, logger="sn9reg")
    with quiet, redirect_stderr(stream()) as written, progress_bar("match"):
        report(1.0)
    assert ("match:" in written.getvalue()) == shown
    assert ("%" in written.getvalue()) == bool(written.getvalue()) == shown


def test_the_bar_stands_where_the_work_does_and_never_goes_back(monkeypatch):
    stands = []
    with redirect_stderr(Terminal()), tqdm(total=100) as shown:
        monkeypatch.setattr(options, "tqdm", lambda **_: shown)
        with progress_bar("match"):
            for fraction in (0, 0.255, 0.5, 0.3, 0.5, 1, 1):
                report(fraction)
                stands.append(shown.n)
    assert stands == [0, 25, 50, 50, 50, 100, 100]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_bar_leaves_no_line_behind_whatever_happens(error):
    def work():
        with progress_bar("match"):
            report(0.5)
            raise error

    with redirect_stderr(Terminal()) as terminal, pytest.raises(error):
        work()
    assert terminal.getvalue().split("\r")[-2].strip() == ""
    assert terminal.getvalue().endswith("\r")


def test_the_bar_shows_stage_and_time_left():
    with redirect_stderr(Terminal()) as terminal, progress_bar("align"):
        for start, stage in ((0, "match"), (0.5, "judge")):
            time.sleep(0.2)  # a bar is drawn ten times a second at most
            with part(start, start + 0.5, stage):
                report(0.5)
    shown = terminal.getvalue()
    assert "align, match:  25%" in shown
    assert "align, judge:  75%" in shown
    assert "left" in shown


def test_quick_work_is_shown_no_bar_for_the_delay():
    with redirect_stderr(Terminal()) as terminal, progress_bar("match"):
        for k in range(100):
            report(k / 100)
    assert terminal.getvalue().strip() == ""


def test_stages_are_told_where_somebody_wants_them():
    named, outer = [], []
    with listening(outer.append, named.append):
        with part(0, 0.5, "one"), part(0, 1), part(0, 1, "inner"):
            report(1)
        with part(0.5, 1, "two"):
            report(1)
    with listening(outer.append), part(0, 1, "unheard"):
        pass
    assert named == ["one", "inner", "two"]
    assert outer == [0.5, 1]
