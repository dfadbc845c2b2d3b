"""Template filters of the bounty pages: measured effects as people read them."""

from datetime import UTC, datetime

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from bounty.models import Run, Submission
from bounty.services import course
from bounty.services.access import Person, sees, sees_run
from bounty.visibility import Part
from gainshare.web.effect_text import change_text, speed_text, typeset

register = template.Library()


@register.filter
def speed_up(log_ppm: int | None) -> str:
    """ln(base time / candidate time) in millionths as a change: `+5.0 %`; `none` without a figure."""
    return "none" if log_ppm is None else change_text(log_ppm)


@register.filter
def speed(log_ppm: int | None) -> str:
    """A series' speed over its origin, given in millionths of a nat: `3.00×`; `none` without one."""
    return "none" if log_ppm is None else speed_text(log_ppm)


@register.filter
def figures(text: str) -> str:
    """A verdict's reason, with its figures formatted as on the rest of the page."""
    return typeset(text)


@register.filter
def ppm_as_per_cent(log_ppm: int | None) -> str:
    """A spread in millionths of a nat as `1.68 %`; `none` without a figure."""
    return "none" if log_ppm is None else f"{log_ppm / 10_000:.2f}\N{NO-BREAK SPACE}%"


@register.filter
def utc_short(moment: datetime) -> SafeString:
    """A short time, with the full time as attribute and tooltip: `28 Nov, 16:36`."""
    at = moment.astimezone(UTC)
    whole = f"{at.day} {at:%b %Y, %H:%M:%S} UTC"
    return format_html(
        '<time datetime="{}" title="{}">{} {}</time>',
        at.isoformat(timespec="seconds"),
        whole,
        at.day,
        f"{at:%b, %H:%M}",
    )


@register.filter
def state_for(submission: Submission, person: Person) -> str:
    """The submission's state as the person may see it."""
    return course.shown_state(submission, person)


@register.filter
def verdict_of_run(run: Run, person: Person) -> str:
    """The kind of a finished run's verdict; empty while the person may not see it."""
    return run.verdict.kind if sees_run(person, run) else ""


@register.filter
def verdict_for(submission: Submission, person: Person) -> str:
    """The kind of the submission's verdict; empty while it has none that the person may see."""
    is_shown = submission.has_verdict and sees(person, Part.VERDICT, submission, is_look=False)
    return submission.verdict_kind if is_shown else ""
