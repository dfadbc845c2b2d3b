"""Forms that take effect once, however often they are sent, because each carries an id."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from django import forms

from gainshare.accounts.models import User
from gainshare.accounts.once import once
from gainshare.web.forms.typed import set_field

SENT_BEFORE = (
    "This form was already sent with other content, so nothing was created now. If you want this as "
    "well, send it again."
)
NOT_TERMS = ("call_id", "confirmed")


class SentOnceForm(forms.Form):
    """A form with an id. A second click or a reload sends the same id; a newly opened page has a new one."""

    call_id = forms.UUIDField(required=False, initial=uuid4, widget=forms.HiddenInput)

    @property
    def is_undone_by_errors(self) -> bool:
        """Whether `made_once` runs ``make`` in a transaction that its errors roll back: a checked form with an id."""
        return self.cleaned_data["call_id"] is not None

    def made_once(self, *, user: User, what: str, make: Callable[[], str], of: object = "") -> str:
        """Call ``make`` once for this form and return the key of its object. ``of`` is the subject of the form.

        Raises IdConflict, and what ``make`` raises.
        """
        terms = {name: value for name, value in self.cleaned_data.items() if name not in NOT_TERMS}
        call_id = self.cleaned_data["call_id"]
        return once(call_id=call_id, user=user, what=what, terms={"of": str(of), **_plain(terms)}, make=make)


def refuse_resent(form: forms.Form, field: str, message: str = SENT_BEFORE) -> None:
    """Report that the form's id was used, and give it a new one, so that sending it again takes effect."""
    form.add_error(None, message)
    set_field(form, field, str(uuid4()))


def _plain(terms: dict[str, Any]) -> dict[str, Any]:
    """Cleaned values as JSON values. An uploaded file is left out, because the form has its text."""
    return {name: str(value) for name, value in terms.items() if not hasattr(value, "chunks")}
