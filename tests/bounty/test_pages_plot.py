"""The plot of a run's pairs. Pure: no database."""

import math
import re
from xml.etree import ElementTree

import pytest

from bounty.pages.pair_plot import HEIGHT, WIDTH, PairPoint, axis_ticks, effect_label, plot_pairs


def points(*log_ratios: float, controls: tuple[int, ...] = ()) -> list[PairPoint]:
    return [PairPoint(index, value, index in controls) for index, value in enumerate(log_ratios)]


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def of_class(svg: str, name: str) -> list[ElementTree.Element]:
    return [element for element in parsed(svg).iter() if element.get("class") == name]


def test_measured_and_control_pairs_look_different_and_only_the_measured_make_the_median() -> None:
    svg = plot_pairs(points(0.05, 0.0, 0.06, 0.04, controls=(1,)))
    assert len(of_class(svg, "pair")) == 3
    assert len(of_class(svg, "control")) == 1
    (label,) = of_class(svg, "median-label")
    assert label.text == "median +5.1\N{NO-BREAK SPACE}%"


def test_the_zero_line_and_the_bound_are_drawn_where_they_belong() -> None:
    svg = plot_pairs(points(0.05, 0.06, 0.07), bound=0.03)
    (zero,), (median_line,), (bound_line,) = (of_class(svg, name) for name in ("zero", "median", "bound"))
    heights = [float(line.get("y1", "nan")) for line in (median_line, bound_line, zero)]
    assert heights == sorted(heights)  # pixels grow downwards: the median is on top
    assert not of_class(plot_pairs(points(0.05)), "bound")


@pytest.mark.parametrize(
    "values",
    [
        (0.0,),
        (0.0, 0.0, 0.0),
        (1e-6, 2e-6),
        (-0.5, -0.6),
        (2.0, 2.1, 1.9),
        (0.001, -0.002, 0.0005),
        (0.1, 9.0),
        (-3.0, 3.0),
        tuple(0.01 * i for i in range(96)),
    ],
)
def test_everything_stays_inside_the_picture_and_is_a_number(values: tuple[float, ...]) -> None:
    svg = plot_pairs(points(*values), bound=min(values))
    assert "nan" not in svg and "inf" not in svg.replace("info", "")
    for circle in parsed(svg).iter("{http://www.w3.org/2000/svg}circle"):
        pytest.fail(f"unexpected namespace: {circle}")
    for circle in parsed(svg).iter("circle"):
        assert 0 <= float(circle.get("cx", "nan")) <= WIDTH
        assert 0 <= float(circle.get("cy", "nan")) <= HEIGHT


def test_nothing_measured_is_no_plot() -> None:
    assert plot_pairs([]) == ""
    assert plot_pairs(points(0.1, controls=(0,))) == ""
    assert plot_pairs(points(math.nan)) == ""


def test_the_summary_says_what_the_picture_shows_and_is_escaped() -> None:
    svg = plot_pairs(points(0.05, 0.05), bound=0.04, title="<b>Gate</b>")
    assert "&lt;b&gt;Gate&lt;/b&gt;: 2 measured pairs" in svg
    assert "<b>" not in svg


@pytest.mark.parametrize(
    ("log_ratio", "text"),
    [
        (math.log(1.05), "+5.0 %"),
        (math.log(0.9), "\N{MINUS SIGN}10.0 %"),
        (0.0, "0.0 %"),
        (-0.0001, "0.0 %"),
        (math.log(4.1), "4.1\N{MULTIPLICATION SIGN}"),
        (math.log(0.25), "0.25\N{MULTIPLICATION SIGN}"),
    ],
)
def test_effects_read_as_per_cent_or_factors(log_ratio: float, text: str) -> None:
    assert effect_label(log_ratio).replace("\N{NO-BREAK SPACE}", " ") == text


def test_large_plots_are_labelled_in_factors_throughout() -> None:
    svg = plot_pairs(points(0.8, 0.9, 0.85), bound=0.3)
    labels = re.findall(r">((?:median|bound) [^<]+)<", svg)
    assert labels == ["median 2.34\N{MULTIPLICATION SIGN}", "bound 1.35\N{MULTIPLICATION SIGN}"]


@pytest.mark.parametrize(
    "span", [(0.0, 0.0), (-0.001, 0.003), (-0.2, 0.01), (0.0, 0.06), (0.0, 2.0), (-4.0, 5.0)]
)
def test_ticks_are_few_ascending_and_include_zero(span: tuple[float, float]) -> None:
    ticks = axis_ticks(*span)
    assert 3 <= len(ticks) <= 9
    assert ticks == sorted(ticks)
    assert any(abs(tick) < 1e-12 for tick in ticks)
    assert ticks[0] <= span[0] + 1e-9 and ticks[-1] >= span[1] - 1e-9
