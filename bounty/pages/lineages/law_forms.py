"""The form of a lineage's law: the maker's share of a saving, and for how long."""

from django import forms
from django.utils import timezone

from benchmarks.sharing.royalties import MOST_DAYS, Law
from benchmarks.sharing.savings import MILLION
from bounty.models import Lineage
from bounty.services.royalties.laws import MAX_REASON, law_at

PPM_OF_PERCENT = MILLION // 100


class LawForm(forms.Form):
    """A share in per cent, its days, and why."""

    share = forms.DecimalField(
        min_value=0,
        max_value=100,
        decimal_places=4,
        label="Share of the saving, in per cent",
    )
    days = forms.IntegerField(min_value=0, max_value=MOST_DAYS, label="Days from when a gain is served")
    reason = forms.CharField(
        max_length=MAX_REASON, label="Reason", help_text="Contributors read it on this page."
    )


def law_form(law: Law) -> LawForm:
    """The form with the present law."""
    return LawForm(initial={"share": f"{law.share_ppm / PPM_OF_PERCENT:g}", "days": law.days})


def present_law(lineage: Lineage) -> Law:
    return law_at(lineage.pk, timezone.now())
