"""Forms for bugs: a bug bounty, and a reproduction."""

from typing import Any

from django import forms

from benchmarks.catalogue import BUG
from benchmarks.judging.reproduction import MAX_REPRODUCTION_BYTES
from bounty.models import Severity
from bounty.pages.forms import CODE, TermsForm
from bounty.rewards import PPM
from bounty.services.bounties import REPRODUCTION_PPM
from gainshare.web.forms.credit_forms import CreditsField
from gainshare.web.forms.sent_once import SentOnceForm
from gainshare.web.forms.typed import pasted_or_chosen, set_field

PPM_PER_CENT = PPM // 100
SEVERITIES = {
    Severity.LOW: "Low: wrong in a rare case",
    Severity.MEDIUM: "Medium: wrong for some users, with a workaround",
    Severity.HIGH: "High: wrong for many users, or without a workaround",
    Severity.CRITICAL: "Critical: wrong answers or lost work that no one notices",
}


def reproduction_text(cleaned: dict[str, Any]) -> str:
    """Text of the pasted or uploaded reproduction; empty without one. Raises ValidationError."""
    return pasted_or_chosen(
        pasted=cleaned.get("reproduction") or "",
        chosen=cleaned.get("file"),
        max_bytes=MAX_REPRODUCTION_BYTES,
        too_large=f"The file is too large: a reproduction may have at most {MAX_REPRODUCTION_BYTES} bytes.",
        no_text="The file is not UTF-8 text. Choose a Python file.",
    )


def reproduction_file() -> forms.FileField:
    """Upload field for a reproduction."""
    return forms.FileField(
        required=False,
        label="Or choose a file",
        widget=forms.FileInput(attrs={"accept": ".py,text/x-python,text/plain"}),
    )


class ReproductionForm(SentOnceForm):
    """A file that shows a bug, pasted or uploaded."""

    reproduction = forms.CharField(
        required=False,
        strip=False,
        label="Paste the file",
        help_text="Python with <code>observe()</code>, which runs the stack and returns what it observed, and "
        "<code>check(seen)</code>, which raises <code>AssertionError</code> if that shows the bug.",
        widget=forms.Textarea(attrs=CODE),
    )
    file = reproduction_file()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        cleaned["reproduction"] = reproduction_text(cleaned)
        if not cleaned["reproduction"]:
            raise forms.ValidationError("Paste the reproduction or choose a file.")
        return cleaned


class BugForm(TermsForm):
    """A new bounty for a bug."""

    severity = forms.ChoiceField(label="Severity", choices=list(SEVERITIES.items()), initial=Severity.MEDIUM)
    award = CreditsField(
        label="The bug pays", help_text="In credits, paid once, for reproduction and fix together."
    )
    share = forms.DecimalField(
        min_value=0,
        max_value=100,
        decimal_places=4,
        initial=REPRODUCTION_PPM // PPM_PER_CENT,
        label="Reproduction's share, %",
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
        error_messages={"invalid": "Enter a number from 0 to below 100, with a decimal point: 30 or 12.5."},
        help_text=(
            "Per cent of the award; the rest is for the fix. If you add your own reproduction, all of it "
            "is for the fix."
        ),
    )
    reproduction = forms.CharField(
        required=False,
        strip=False,
        label="Your own reproduction",
        help_text=(
            "A Python file with <code>observe()</code> and <code>check(seen)</code>, if you have one. "
            "Without it, the first contributor who reproduces the bug earns the reproduction's share."
        ),
        widget=forms.Textarea(attrs=CODE | {"rows": 8}),
    )
    file = reproduction_file()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        escrow = self.fields["escrow"]
        escrow.required = False
        escrow.label = "Escrow"
        escrow.help_text = "At least the award. If empty, the same as the award. Taken from the treasury now."

    def wide_fields(self) -> list[forms.BoundField]:
        """Fields of full width."""
        names = ("title", "description", "lineage", "hardware", "severity", "reproduction", "file")
        return [self[name] for name in names]

    def short_fields(self) -> list[forms.BoundField]:
        """Fields that are shown side by side."""
        names = ("award", "escrow", "share", "min_reviewers", "max_attempts", "deadline_at")
        return [self[name] for name in names]

    def clean_share(self) -> int:
        """Convert per cent to millionths."""
        ppm = int(self.cleaned_data["share"] * PPM_PER_CENT)
        if ppm >= PPM:
            raise forms.ValidationError(
                "Enter less than 100 %: a part of the award must be left for the fix."
            )
        return ppm

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        award = cleaned.get("award")
        if award and not self.has_error("escrow"):
            cleaned["escrow"] = cleaned.get("escrow") or award
            if cleaned["escrow"] < award:
                self.add_error(
                    "escrow",
                    "The escrow is below the award. Enter at least the award, or leave the field empty.",
                )
        cleaned["reproduction"] = reproduction_text(cleaned)
        return cleaned

    def must_ask(self, *, available: int) -> bool:
        """Also keep the text of an uploaded file, because a browser does not send a file again."""
        is_asking = super().must_ask(available=available)
        if is_asking:
            set_field(self, "reproduction", self.cleaned_data["reproduction"])
        return is_asking

    def terms(self) -> dict[str, Any]:
        """Arguments for `open_bounty`, and the reproduction, which may be empty."""
        data = self.cleaned_data
        (preset,) = BUG.presets
        return super().terms() | {
            "suite": BUG.name,
            "preset": preset,
            "severity": data["severity"],
            "award_microcredits": data["award"],
            "reproduction_ppm": data["share"],
            "reproduction": data["reproduction"],
        }
