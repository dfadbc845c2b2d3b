"""The stylesheet's colours have enough contrast: WCAG 2.2 AA, light and dark."""

import re
from pathlib import Path

import pytest

STYLE = Path(__file__).resolve().parents[3] / "platform/gainshare/web/static/web/gainshare.css"
GROUNDS = ("bg", "surface", "sunken")
SOFT = ("good-soft", "bad-soft", "warn-soft", "busy-soft")
TEXT = {
    "text": (*GROUNDS, *SOFT),
    "muted": (*GROUNDS, *SOFT, "plain-soft"),
    "accent": (*GROUNDS, *SOFT, "accent-soft"),
    "good": (*GROUNDS, "good-soft"),
    "bad": (*GROUNDS, "bad-soft"),
    "warn": (*GROUNDS, "warn-soft"),
    "busy": (*GROUNDS, "busy-soft"),
    "accent-text": ("accent", "accent-hover"),
}
TEXT_CONTRAST = 4.5  # success criterion 1.4.3
CONTROL_CONTRAST = 3.0  # success criterion 1.4.11: the edge of a field


def colours(theme: str) -> dict[str, str]:
    """The theme's custom properties that are colours."""
    light, dark = STYLE.read_text().split("@media (prefers-color-scheme: dark)")[:2]
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", light))
    if theme == "dark":
        found |= dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", dark.split("\n}\n")[0]))
    return found


def luminance(colour: str) -> float:
    """WCAG's relative luminance of `#rrggbb`, from 0 to 1."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio, from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_black_on_white_has_the_contrast_that_wcag_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast_on_every_background(theme: str) -> None:
    palette = colours(theme)
    weak = {
        (text, ground): round(contrast(palette[text], palette[ground]), 2)
        for text, grounds in TEXT.items()
        for ground in grounds
        if contrast(palette[text], palette[ground]) < TEXT_CONTRAST
    }
    assert weak == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_edge_of_a_field_can_be_seen(theme: str) -> None:
    palette = colours(theme)
    assert all(contrast(palette["control"], palette[ground]) >= CONTROL_CONTRAST for ground in GROUNDS)
    assert "border: 1px solid var(--control)" in STYLE.read_text()
