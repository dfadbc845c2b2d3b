"""Forms of the bounty pages. They validate input; the services check the rules."""

from typing import Any
from uuid import uuid4

from django import forms
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from benchmarks.catalogue import BUG, SUITES
from bounty.limits import MAX_DIFF_CHARS
from bounty.models import Lineage, Runner, RunnerState
from bounty.rewards import TEN_PER_CENT, award_microcredits
from gainshare.web.formatting import format_credits
from gainshare.web.forms.credit_forms import CreditsField, CreditsForm
from gainshare.web.forms.sent_once import SentOnceForm
from gainshare.web.forms.typed import pasted_or_chosen

CODE = {"class": "code", "spellcheck": "false", "autocapitalize": "none", "rows": 16}
SHORT_CODE = CODE | {"class": "code code-short", "rows": 6}


def diff_field(label: str, help_text: str, *, is_long: bool = True) -> forms.CharField:
    """Text field for a diff."""
    widget = forms.Textarea(attrs=CODE if is_long else SHORT_CODE)
    return forms.CharField(required=False, strip=False, label=label, help_text=help_text, widget=widget)


def diff_file() -> forms.FileField:
    """Upload field for a diff."""
    widget = forms.FileInput(attrs={"accept": ".diff,.patch,text/plain"})
    return forms.FileField(required=False, label="Or choose a file", widget=widget)


def diff_text(cleaned: dict[str, Any]) -> str:
    """Text of the pasted or uploaded diff; empty without one. Raises ValidationError."""
    return pasted_or_chosen(
        pasted=cleaned.get("diff") or "",
        chosen=cleaned.get("file"),
        max_bytes=4 * MAX_DIFF_CHARS,
        too_large=f"The file is too large: a diff may have at most {MAX_DIFF_CHARS} characters.",
        no_text="The file is not UTF-8 text. Make the diff with git diff.",
    )


class DiffForm(SentOnceForm):
    """A diff, pasted or uploaded."""

    diff = diff_field(
        "Paste the diff",
        "A unified diff, as <code>git diff</code> prints it. Only files below <code>model/</code>.",
    )
    file = diff_file()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        cleaned["diff"] = diff_text(cleaned)
        if not cleaned["diff"]:
            raise forms.ValidationError("Paste a diff or choose a file.")
        return cleaned


class MoreEscrowForm(CreditsForm):
    """More credits for a bounty. The form carries an id, so that sending it twice adds once."""

    transfer_id = forms.UUIDField(initial=uuid4, widget=forms.HiddenInput)
    amount = CreditsField(label="Credits", help_text="Taken from the treasury now.")


class TermsForm(SentOnceForm, CreditsForm):
    """Fields of every new bounty, for gains or for a bug."""

    title = forms.CharField(max_length=200, label="Title")
    description = forms.CharField(
        required=False,
        label="Description",
        help_text="What you want to be improved, and where to start.",
        widget=forms.Textarea(attrs={"rows": 5}),
    )
    lineage = forms.ModelChoiceField(
        queryset=Lineage.objects.all(),
        to_field_name="name",
        empty_label=None,
        label="Lineage",
        help_text="The line of trees that accepted patches are merged into.",
    )
    hardware = forms.ChoiceField(label="Hardware")
    escrow = CreditsField(
        label="Credits in escrow",
        help_text="Taken from the treasury now. Credits that are not paid return there.",
    )
    min_reviewers = forms.IntegerField(
        min_value=1, max_value=20, initial=1, label="Reviewers needed", widget=forms.NumberInput
    )
    max_attempts = forms.IntegerField(min_value=1, max_value=1000, initial=10, label="Attempts per person")
    deadline_at = forms.DateTimeField(
        required=False,
        label="Deadline (UTC)",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )

    accept_no_runner = forms.BooleanField(
        required=False, label="Open it anyway: nothing can be judged until a runner is registered"
    )
    is_asking_about_runner = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        hardware = self.fields["hardware"]
        assert isinstance(hardware, forms.ChoiceField)
        present = (
            Runner.objects.exclude(state=RunnerState.RETIRED).values_list("hardware", flat=True).distinct()
        )
        hardware.choices = [(name, name) for name in sorted({"cpu", *present})]

    def clean_deadline_at(self) -> Any:
        deadline = self.cleaned_data["deadline_at"]
        if deadline is not None and deadline <= timezone.now():
            raise forms.ValidationError("The deadline is in the past. Enter a later time.")
        return deadline

    def ask_about_runner(self, refusal: str) -> None:
        """Report that no runner has the hardware, and offer to open the bounty anyway."""
        self.add_error("hardware", refusal)
        self.is_asking_about_runner = True

    def moved(self) -> int:
        return int(self.cleaned_data["escrow"])

    def terms(self) -> dict[str, Any]:
        """Arguments for `open_bounty` that gains and bugs share."""
        data = self.cleaned_data
        alike = (
            "title",
            "description",
            "hardware",
            "min_reviewers",
            "max_attempts",
            "deadline_at",
            "accept_no_runner",
        )
        return {name: data[name] for name in alike} | {
            "lineage": data["lineage"].name,
            "escrow_microcredits": data["escrow"],
        }


class BountyForm(TermsForm):
    """A new bounty for gains."""

    suite = forms.ChoiceField(label="What is measured")
    rate = CreditsField(
        label="Credits per e-fold speed-up",
        help_text=(
            "An award is this rate times ln(speed-up). A patch that is 1 % faster earns about a "
            "hundredth of the rate."
        ),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        suites = self.fields["suite"]
        assert isinstance(suites, forms.ChoiceField)
        timed = [
            suite for suite in SUITES.values() if suite is not BUG
        ]  # bug bounties have a form of their own
        presets = [(suite, preset) for suite in timed for preset in suite.presets.values()]
        suites.choices = [
            (f"{suite.name}/{preset.name}", f"{suite.title}, size {preset.name}") for suite, preset in presets
        ]
        suites.help_text = format_html_join(
            SafeString("<br>"),
            "{}: {}.",
            [(preset.name.capitalize(), preset.description.rstrip(".")) for _, preset in presets],
        )

    def doubts(self, *, existing: int) -> list[str]:
        """Also ask about a rate at which one ordinary gain would take all of the escrow."""
        found, rate, escrow = super().doubts(existing=existing), self.cleaned_data["rate"], self.moved()
        example = award_microcredits(rate_microcredits_per_nat=rate, log_ppm=TEN_PER_CENT)
        if example >= escrow:
            found.append(
                f"A gain of 10 % would earn {format_credits(example)} credits, but the escrow has "
                f"{format_credits(escrow)}. The first such gain would take all of it."
            )
        return found

    def wide_fields(self) -> list[forms.BoundField]:
        """Fields of full width."""
        return [self[name] for name in ("title", "description", "lineage", "suite", "hardware")]

    def short_fields(self) -> list[forms.BoundField]:
        """Fields that are shown side by side."""
        return [self[name] for name in ("escrow", "rate", "min_reviewers", "max_attempts", "deadline_at")]

    def terms(self) -> dict[str, Any]:
        """Arguments for `open_bounty`."""
        suite, preset = self.cleaned_data["suite"].split("/")
        rate = self.cleaned_data["rate"]
        return super().terms() | {"suite": suite, "preset": preset, "rate_microcredits_per_nat": rate}


class LineageForm(SentOnceForm):
    """A new lineage that starts at the installed stack or another stored tree, with or without a diff."""

    name = forms.CharField(max_length=60, label="Name", help_text="Lower-case letters, digits, - and _.")
    base_tree = forms.CharField(
        initial="shipped",
        max_length=64,
        label="Starts at",
        help_text="<code>shipped</code> for the installed stack, or a tree's hash.",
    )
    diff = diff_field(
        "Changed by this diff",
        "A unified diff, as <code>git diff</code> prints it. Leave it empty to start at the tree itself.",
        is_long=False,
    )
    file = diff_file()
    is_demo = forms.BooleanField(
        required=False, label="It is a demo", help_text="Its bounties are marked as demos."
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        cleaned["diff"] = diff_text(cleaned)
        return cleaned
