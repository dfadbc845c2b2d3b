"""Fields and forms for amounts of credits; large amounts need a confirmation."""

from typing import Any

from django import forms
from django.conf import settings
from django.urls import reverse_lazy

from gainshare.accounts.models import MadeOnce
from gainshare.ledger.models import Transfer
from gainshare.ledger.services import MAX_MICROCREDITS, totals
from gainshare.web.formatting import format_credits
from gainshare.web.forms.amounts import is_large, parse_credits, spelled_out
from gainshare.web.forms.typed import set_field


class CreditsInput(forms.TextInput):
    """Text input for credits. Not type=number, whose value depends on the browser's language."""

    def __init__(self) -> None:
        reads_at = reverse_lazy("credits-read")
        super().__init__({"inputmode": "decimal", "autocomplete": "off", "data-reads-at": reads_at})


class CreditsField(forms.CharField):
    """Credits as typed, above zero and with up to six decimals; cleaned to micro-credits."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("widget", CreditsInput())
        super().__init__(**kwargs)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        return read_amount(text) if text else None


def read_amount(text: str) -> int:
    """Parse an amount to micro-credits and check its range. Raises ValidationError."""
    try:
        amount = parse_credits(text)
    except ValueError as error:
        raise forms.ValidationError(str(error)) from None
    if not 0 < amount <= MAX_MICROCREDITS:
        raise forms.ValidationError(
            f"Enter more than 0 and at most {format_credits(MAX_MICROCREDITS)} credits."
        )
    return amount


class CreditsForm(forms.Form):
    """A form that moves credits. A large amount must be sent twice, the second time with the confirmed amounts."""

    confirmed = forms.CharField(required=False, max_length=200, widget=forms.HiddenInput)
    question: str = ""

    def must_ask(self, *, available: int) -> bool:
        """Whether a valid form must be confirmed first; then ``question`` says why, and the page shows it.

        Not if it needs more than ``available``, which is refused anyway, nor if it was already sent and processed.
        """
        is_idle = self.moved() > available or self._was_done()
        doubts = [] if is_idle else self.doubts(existing=totals().issued)
        amounts = ",".join(str(self.cleaned_data[name] or 0) for name in self._amount_names())
        if not doubts or self.cleaned_data["confirmed"] == amounts:
            return False
        self.question = " ".join(doubts)
        # The confirmation is for these amounts only: changed amounts must be confirmed again.
        set_field(self, "confirmed", amounts)
        return True

    def moved(self) -> int:
        """The micro-credits that a valid form moves."""
        return int(self.cleaned_data["amount"])

    def doubts(self, *, existing: int) -> list[str]:
        """Questions to ask before anything moves; empty for an ordinary form."""
        moved = self.moved()
        if not is_large(moved, existing=existing, percent=settings.LARGE_SUM_PERCENT):
            return []
        return [f"{spelled_out(moved)}: {_share_of(moved, existing)}."]

    def _was_done(self) -> bool:
        data = self.cleaned_data
        if transfer_id := data.get("transfer_id"):
            return Transfer.objects.filter(pk=transfer_id).exists()
        call_id = data.get("call_id")
        return call_id is not None and MadeOnce.objects.filter(pk=call_id).exists()

    def _amount_names(self) -> list[str]:
        return [name for name, field in self.fields.items() if isinstance(field, CreditsField)]


def _share_of(amount: int, existing: int) -> str:
    if existing == 0:
        return "the first credits on this site"
    if amount >= 2 * existing:
        return f"{amount // existing:,} times all {format_credits(existing)} credits that were ever issued"
    return f"{amount * 100 // existing} % of all {format_credits(existing)} credits that were ever issued"
