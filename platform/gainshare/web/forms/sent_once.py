"""Forms that make something once, however often they are sent: each goes out with an id of its own."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from django import forms

from gainshare.accounts.models import User
from gainshare.accounts.once import once
from gainshare.web.forms.typed import set_field

SENT_BEFORE = "This form was sent before, with something else in it. Nothing was made now; send it again if you want this as well."
NOT_TERMS = ("call_id", "confirmed")


class SentOnceForm(forms.Form):
    """A form with an id. Two tabs, a second click and a reload send the same one; a page opened again has another."""

    call_id = forms.UUIDField(required=False, initial=uuid4, widget=forms.HiddenInput)

    def made_once(self, *, user: User, what: str, make: Callable[[], str], of: object = "") -> str:
        """Call ``make`` once for this form (``of``: what the form is about); returns what the thing is found by.

        Raises IdConflict, and what ``make`` raises.
        """
        terms = {name: value for name, value in self.cleaned_data.items() if name not in NOT_TERMS}
        call_id = self.cleaned_data["call_id"]
        return once(call_id=call_id, user=user, what=what, terms={"of": str(of), **_plain(terms)}, make=make)


def refuse_resent(form: forms.Form, field: str, message: str = SENT_BEFORE) -> None:
    """Say that the form's id is used up, and give it a new one, so that sending it once more makes something new."""
    form.add_error(None, message)
    set_field(form, field, str(uuid4()))


def _plain(terms: dict[str, Any]) -> dict[str, Any]:
    """Cleaned values as JSON can hold them. An uploaded file is in the text that the form read from it."""
    return {name: str(value) for name, value in terms.items() if not hasattr(value, "chunks")}
