"""Template filters of the bounty pages: measured effects as people read them."""

from django import template

from bounty.pages.pair_plot import effect_label

register = template.Library()


@register.filter
def speed_up(log_ppm: int | None) -> str:
    """ln(base time / candidate time) in millionths as `+5.0 %`, or `4.1×` where large; `none` without a figure."""
    return "none" if log_ppm is None else effect_label(log_ppm / 1e6)


@register.filter
def ppm_as_per_cent(log_ppm: int | None) -> str:
    """A spread in millionths of a nat as `1.68 %`; `none` without a figure."""
    return "none" if log_ppm is None else f"{log_ppm / 10_000:.2f}\N{NO-BREAK SPACE}%"
