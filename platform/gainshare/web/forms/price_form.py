"""Form for a version of a model's prices, published or as a draft."""

import re
from datetime import UTC
from decimal import Decimal
from typing import Any

from django import forms

from gainshare.ledger.price_book import PriceTable, PriceVersion
from gainshare.ledger.pricing import MILLION, check_terms
from gainshare.ledger.services import MAX_MICROCREDITS
from gainshare.web.formatting import format_credits
from gainshare.web.forms.amounts import parse_credits, plain_credits

PPM_PER_CENT = 10_000
BYTE_MS_PER_MICRO_GB_S = 1_000_000
WINDOW = re.compile(r"(\d{1,2})\s*[-\N{EN DASH}]\s*(\d{1,2})\s+(\d{1,3}(?:\.\d{1,4})?)\s*%?")
SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)\s*%?")
LONG = ("long_fresh_input", "long_cached_input", "long_output")


class PriceField(forms.CharField):
    """Credits per million tokens as typed, zero or more; cleaned to micro-credits, 0 if left empty."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=forms.TextInput({"inputmode": "decimal", "autocomplete": "off"}), **kwargs)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return 0
        try:
            amount = parse_credits(text)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None
        if amount > MAX_MICROCREDITS:
            raise forms.ValidationError(f"Enter at most {format_credits(MAX_MICROCREDITS)} credits.")
        return amount


class PriceForm(forms.Form):
    """Prices of one model. `table` has them after a successful `is_valid`."""

    model = forms.CharField(max_length=120, label="Model", widget=forms.TextInput({"autocomplete": "off"}))
    fresh_input = PriceField(label="Prompt", help_text="Credits per million tokens.")
    cached_input = PriceField(label="Prompt, cached")
    output = PriceField(label="Answer")
    off_peak_windows = forms.CharField(
        required=False,
        label="Off-peak hours",
        help_text="In UTC, one window a line: first hour, hour after the last, per cent of the price. Example: 22-6 50%",
        widget=forms.Textarea({"rows": 2, "class": "code code-short", "autocomplete": "off"}),
    )
    long_above = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=MAX_MICROCREDITS,
        label="Long context above",
        help_text="Tokens. The surcharges are added for each token above.",
        widget=forms.TextInput({"inputmode": "numeric", "autocomplete": "off"}),
    )
    long_fresh_input = PriceField(required=False, label="Surcharge, prompt")
    long_cached_input = PriceField(required=False, label="Surcharge, prompt cached")
    long_output = PriceField(required=False, label="Surcharge, answer")
    memory_tiers = forms.CharField(
        required=False,
        label="Cache memory",
        help_text="One tier a line: GB-seconds of a request above which it counts, then credits for each GB-second. "
        "Example: 1 0.00004",
        widget=forms.Textarea({"rows": 2, "class": "code code-short", "autocomplete": "off"}),
    )
    memory_share = forms.CharField(
        required=False,
        label="Most that memory costs",
        help_text="Per cent of what the tokens cost. Without it memory costs nothing.",
        widget=forms.TextInput({"inputmode": "decimal", "autocomplete": "off"}),
    )
    effective_at = forms.DateTimeField(
        required=False,
        label="Takes effect at",
        help_text="In UTC. Left empty: now, or in 24 hours if it can make any bill dearer.",
        widget=forms.DateTimeInput({"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"],
    )

    def clean_off_peak_windows(self) -> list[list[int]]:
        windows = []
        for line in self.cleaned_data["off_peak_windows"].splitlines():
            if not line.strip():
                continue
            found = WINDOW.fullmatch(line.strip())
            if found is None:
                raise forms.ValidationError(f"“{line.strip()[:40]}” is no window. Write it as 22-6 50%.")
            windows.append([int(found[1]), int(found[2]), int(Decimal(found[3]) * PPM_PER_CENT)])
        return windows

    def clean_memory_tiers(self) -> list[list[int]]:
        tiers = []
        for line in self.cleaned_data["memory_tiers"].splitlines():
            if not line.strip():
                continue
            words = line.split()
            if len(words) != 2:
                raise forms.ValidationError(f"“{line.strip()[:40]}” is no tier. Write it as 1 0.00004.")
            try:
                above, price = (parse_credits(word) for word in words)
            except ValueError as error:
                raise forms.ValidationError(str(error)) from None
            tiers.append([above * BYTE_MS_PER_MICRO_GB_S, price])
        return tiers

    def clean_memory_share(self) -> int:
        text = self.cleaned_data["memory_share"].strip()
        found = SHARE.fullmatch(text or "0")
        share = int(Decimal(found[1]) * PPM_PER_CENT) if found else MILLION + 1
        if share > MILLION:
            raise forms.ValidationError(
                "Enter per cent from 0 to 100 with at most four decimals, such as 20."
            )
        return share

    def clean_effective_at(self) -> Any:
        at = self.cleaned_data["effective_at"]
        return at and at.replace(tzinfo=UTC)

    def clean(self) -> dict[str, Any]:
        if not self.errors:
            try:
                check_terms(self.table, most=MAX_MICROCREDITS)
            except ValueError as error:
                raise forms.ValidationError(str(error)) from None
        return self.cleaned_data

    @property
    def table(self) -> PriceTable:
        """The terms as they were typed."""
        data = self.cleaned_data
        names = ("cached_input", "fresh_input", "output", *LONG, "off_peak_windows", "memory_tiers")
        terms = {name: data[name] for name in names}
        return PriceTable(**terms, long_above=data["long_above"] or 0, memory_share_ppm=data["memory_share"])


def typed(price: PriceVersion) -> dict[str, Any]:
    """A price as the form's initial values."""
    names = ("cached_input", "fresh_input", "output", *LONG)
    windows = [f"{first}-{end} {_plain_share(factor)}%" for first, end, factor in price.off_peak_windows]
    tiers = [
        f"{plain_credits(above // BYTE_MS_PER_MICRO_GB_S)} {plain_credits(each)}"
        for above, each in price.memory_tiers
    ]
    return {
        "model": price.model,
        **{
            name: plain_credits(getattr(price, name))
            for name in names
            if getattr(price, name) or name not in LONG
        },
        "long_above": price.long_above or "",
        "off_peak_windows": "\n".join(windows),
        "memory_tiers": "\n".join(tiers),
        "memory_share": _plain_share(price.memory_share_ppm) if price.memory_share_ppm else "",
    }


def _plain_share(ppm: int) -> str:
    return f"{Decimal(ppm) / PPM_PER_CENT:f}"
