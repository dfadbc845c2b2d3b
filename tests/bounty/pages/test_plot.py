"""The plot of a run's pairs. Pure: no database."""

import math
from xml.etree import ElementTree

import pytest

from bounty.pages.pair_plot import HEIGHT, PairPoint, axis_ticks, plot_pairs, tick_labels
from gainshare.web.effect_text import change_text, speed_text, typeset


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
    assert "3 measured pairs, median +5.1\N{NO-BREAK SPACE}% against base" in svg


def test_the_zero_line_and_the_bound_are_drawn_where_they_belong() -> None:
    svg = plot_pairs(points(0.05, 0.06, 0.07), bound_log_ppm=30_000)
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
    svg = plot_pairs(points(*values), bound_log_ppm=round(min(values) * 1e6))
    assert "nan" not in svg and "inf" not in svg.replace("info", "")
    for circle in parsed(svg).iter("{http://www.w3.org/2000/svg}circle"):
        pytest.fail(f"unexpected namespace: {circle}")
    for circle in parsed(svg).iter("circle"):
        assert 0 <= float(circle.get("cx", "nan").removesuffix("%")) <= 100
        assert 0 <= float(circle.get("cy", "nan")) <= HEIGHT


def test_nothing_measured_is_no_plot() -> None:
    assert plot_pairs([]) == ""
    assert plot_pairs(points(0.1, controls=(0,))) == ""
    assert plot_pairs(points(math.nan)) == ""


def test_the_summary_says_what_the_picture_shows_and_is_escaped() -> None:
    svg = plot_pairs(points(0.05, 0.05), bound_log_ppm=40_000, title="<b>Gate</b>")
    assert "&lt;b&gt;Gate&lt;/b&gt;: 2 measured pairs" in svg
    assert "<b>" not in svg


@pytest.mark.parametrize(
    ("log_ppm", "text"),
    [
        (48_791, "+5.0 %"),
        (-105_361, "\N{MINUS SIGN}10.1 %"),  # rounded down, as the verdict's reason is
        (-284_900, "\N{MINUS SIGN}24.8 %"),
        (0, "0.0 %"),
        (-100, "\N{MINUS SIGN}0.1 %"),
        (1_410_987, "+310.0 %"),
        (-1_386_294, "\N{MINUS SIGN}75.0 %"),
    ],
)
def test_a_change_is_signed_per_cent_whatever_its_size(log_ppm: int, text: str) -> None:
    assert change_text(log_ppm).replace("\N{NO-BREAK SPACE}", " ") == text


def test_a_speed_is_a_factor() -> None:
    assert speed_text(1_098_613) == "3.00\N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the median is -24.8 %.", "the median is \N{MINUS SIGN}24.8\N{NO-BREAK SPACE}%."),
        (
            "+5.1 % at least, with 95 % confidence",
            "+5.1\N{NO-BREAK SPACE}% at least, with 95\N{NO-BREAK SPACE}% confidence",
        ),
        ("moe-8 % x2 run-24.8 %", "moe-8 % x2 run-24.8 %"),
        ("<b>-1.0 %</b>", "<b>\N{MINUS SIGN}1.0\N{NO-BREAK SPACE}%</b>"),
    ],
)
def test_a_reasons_figures_are_written_as_the_pages_own(text: str, shown: str) -> None:
    assert typeset(text) == shown


def test_large_spans_have_ticks_at_powers_of_two_in_per_cent() -> None:
    labels = tick_labels(axis_ticks(-1.0, 1.4))
    assert [label.replace("\N{NO-BREAK SPACE}", "") for label in labels] == [
        "\N{MINUS SIGN}75%", "\N{MINUS SIGN}50%", "0%", "+100%", "+300%", "+700%"
    ]  # fmt: skip


def test_the_bound_is_called_what_it_is() -> None:
    svg = plot_pairs(points(-0.3, -0.3), bound_log_ppm=-290_000, bound_side="upper")
    assert "upper bound \N{MINUS SIGN}25.2" in svg and "lower" not in svg


def test_a_plot_is_as_wide_as_its_place() -> None:
    svg = plot_pairs(points(0.05, 0.06))
    root = parsed(svg)
    assert root.get("viewBox") is None and root.get("height") == str(HEIGHT) and root.get("width") is None


@pytest.mark.parametrize(
    "span", [(0.0, 0.0), (-0.001, 0.003), (-0.2, 0.01), (0.0, 0.06), (0.0, 2.0), (-4.0, 5.0)]
)
def test_ticks_are_few_ascending_and_include_zero(span: tuple[float, float]) -> None:
    ticks = axis_ticks(*span)
    assert 3 <= len(ticks) <= 9
    assert ticks == sorted(ticks)
    assert any(abs(tick) < 1e-12 for tick in ticks)
    assert ticks[0] <= span[0] + 1e-9 and ticks[-1] >= span[1] - 1e-9
