"""Template filters and tags of the shell: figures, the navigation, status badges."""

from datetime import UTC, datetime
from typing import Any

from django import template
from django.conf import settings
from django.forms import BoundField
from django.utils.html import format_html
from django.utils.safestring import SafeString

from gainshare.accounts.github_oauth import is_offered
from gainshare.web import formatting, price_words
from gainshare.web.banners import Banner
from gainshare.web.banners import banners as standing_banners
from gainshare.web.effect_text import change_text
from gainshare.web.forms.amounts import spelled_out
from gainshare.web.forms.credit_forms import CreditsField
from gainshare.web.navigation import NavLink, links_for

register = template.Library()

NOTHING = "\N{EN DASH}"

# Colour classes of states and verdicts.
GOOD = {
    "completed", "settled", "posted", "gain", "vested", "accepted", "confirmed", "active", "open", "finished", "true",
    "adopted", "reproduced", "ready", "serving",
}  # fmt: skip
BAD = {
    "failed", "regression", "wrong_output", "quality_loss", "build_failed", "patch_rejected", "timeout",
    "resource_limit", "policy_violation", "rejected", "reversed", "lost", "revoked", "refused",
}  # fmt: skip
BUSY = {
    "running", "pending", "queued", "leased", "preparing", "gating", "measuring", "judging", "confirming", "received",
    "checked", "draining", "being_judged", "being_settled", "starting", "taken", "requested", "canary",
}  # fmt: skip
WARN = {
    "suspicious",
    "infrastructure_error",
    "expired",
    "cancelled",
    "exhausted",
    "declined",
    "quarantined",
    "recalled",
    "silent",
    "rolled_back",
}


@register.filter(name="credits")
def credits_filter(microcredits: int | None) -> str:
    """`{{ row.amount_microcredits|credits }}`: micro-credits as credits; an en dash where there is no amount."""
    return NOTHING if microcredits is None else formatting.format_credits(int(microcredits))


@register.filter
def signed_credits(microcredits: int | None) -> str:
    """Like `credits`, with a plus sign before gains."""
    return NOTHING if microcredits is None else formatting.format_signed_credits(int(microcredits))


@register.filter
def in_credits(text: Any) -> str:
    """A text with its amounts converted to credits."""
    return formatting.in_credits(str(text))


@register.filter
def milliseconds(value: float | None) -> str:
    """A duration in milliseconds in its most readable unit."""
    return NOTHING if value is None else formatting.format_milliseconds(float(value))


@register.filter(name="price_terms")
def price_terms_filter(price: Any) -> list[str]:
    """The terms of a price in addition to its token prices, in words."""
    return price_words.price_terms(price)


@register.filter(name="price_gains")
def price_gains_filter(price: Any) -> list[str]:
    """What a price was before the gains, and each gain that lowered it, in words."""
    return price_words.price_gains(price)


@register.filter
def share(ppm: int) -> str:
    """Millionths as per cent: `33.3333 %`."""
    return price_words.format_share(ppm)


@register.filter
def utc(moment: datetime | None) -> SafeString:
    """A time to the minute with its zone: `28 Nov 2026, 16:36 UTC`; empty where there is none."""
    return _time(moment, "%H:%M")


@register.filter
def utc_seconds(moment: datetime | None) -> SafeString:
    """Like `utc`, to the second."""
    return _time(moment, "%H:%M:%S")


def _time(moment: datetime | None, clock: str) -> SafeString:
    if moment is None:
        return SafeString("")
    at = moment.astimezone(UTC)
    shown = f"{at.day} {at:%b %Y}, {at.strftime(clock)} UTC"
    return format_html('<time datetime="{}">{}</time>', at.isoformat(timespec="seconds"), shown)


@register.filter
def tone(state: Any) -> str:
    """The colour class of a state or verdict: good, bad, busy, warn or plain."""
    word = str(state)
    for name, words in (("good", GOOD), ("bad", BAD), ("busy", BUSY), ("warn", WARN)):
        if word in words:
            return name
    return "plain"


@register.filter
def badge(state: Any) -> SafeString:
    """A state or verdict as a coloured label; underscores become spaces."""
    return format_html('<span class="badge badge-{}">{}</span>', tone(state), words(state))


@register.filter
def change(log_ppm: int | str | None) -> str:
    """A gain in millionths of a nat as a change: `+5.0 %`; empty without a figure."""
    return change_text(log_ppm) if isinstance(log_ppm, int) else ""


@register.filter
def words(identifier: Any) -> str:
    """`fresh_input` as `fresh input`."""
    return str(identifier).replace("_", " ")


@register.simple_tag
def control(field: BoundField) -> SafeString:
    """Input of a form field. In a form with errors, the first invalid field gets the focus."""
    wrong = next((other.name for other in field.form if other.errors and not other.is_hidden), None)
    if wrong is None:
        return field.as_widget()
    return field.as_widget(attrs={"autofocus": field.name == wrong})


@register.simple_tag
def understood(field: BoundField) -> str | None:
    """The parsed amount in words: empty if there is none yet, None for a field of another kind."""
    if not isinstance(field.field, CreditsField):
        return None
    cleaned = getattr(field.form, "cleaned_data", {}).get(field.name)
    return "" if cleaned is None else spelled_out(cleaned)


@register.simple_tag
def is_open_for_signup() -> bool:
    """Whether visitors may sign up."""
    return bool(settings.OPEN_SIGNUP)


@register.simple_tag
def offers_github() -> bool:
    """Whether people can sign in with GitHub."""
    return is_offered()


@register.simple_tag
def banners() -> list[Banner]:
    """Banners to show above the page."""
    return standing_banners()


@register.simple_tag(takes_context=True)
def navigation(context: template.Context) -> list[NavLink]:
    """Navigation links for the user of this page."""
    request = context.get("request")
    return [] if request is None or not hasattr(request, "user") else links_for(request.user, request.path)
