"""Template filters of the bounty pages: measured effects as people read them."""

from django import template

from bounty.pages.pair_plot import effect_label

register = template.Library()


@register.filter
def speed_up(log_ppm: int | None) -> str:
    """ln(base time / candidate time) in millionths as `+5.0 %`, or `4.1×` where large; `none` without a figure."""
    return "none" if log_ppm is None else effect_label(log_ppm / 1e6)
