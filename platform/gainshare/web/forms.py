"""The shell's forms. They check shape only; the rules are the services' of the accounts app and of the ledger."""

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from django import forms
from django.contrib.auth.password_validation import password_validators_help_text_html
from django.utils import timezone

from gainshare.accounts.models import Scope, User
from gainshare.ledger.services import MAX_MICROCREDITS
from gainshare.web.formatting import format_credits, parse_credits

LIFETIMES = {"": "Never", "1": "In one day", "30": "In 30 days", "90": "In 90 days", "365": "In one year"}


class CreditsField(forms.CharField):
    """Credits as typed, above zero and with up to six decimals; cleaned to micro-credits."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("widget", forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}))
        super().__init__(**kwargs)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            amount = parse_credits(text)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None
        if not 0 < amount <= MAX_MICROCREDITS:
            raise forms.ValidationError(
                f"Write more than 0 and at most {format_credits(MAX_MICROCREDITS)} credits."
            )
        return amount


class FundForm(forms.Form):
    """Credits to issue into the treasury. The id goes out with the form, so that sending it twice funds once."""

    transfer_id = forms.UUIDField(initial=uuid4, widget=forms.HiddenInput)
    amount = CreditsField(
        label="Credits", help_text="New credits: they come into being here, and nowhere else."
    )
    memo = forms.CharField(
        required=False,
        max_length=300,
        label="Note",
        help_text="What they are for. It stays beside the movement for good.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )


class SignUpForm(forms.Form):
    """A new account."""

    username = forms.CharField(
        max_length=150,
        label="User name",
        help_text="Letters, digits and @ . + - _ only. It is shown beside your submissions.",
        widget=forms.TextInput(
            attrs={"autocomplete": "username", "autofocus": True, "autocapitalize": "none"}
        ),
    )
    email = forms.EmailField(
        required=False, label="E-mail", widget=forms.EmailInput(attrs={"autocomplete": "email"})
    )
    password = forms.CharField(
        label="Password",
        strip=False,
        help_text=password_validators_help_text_html,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )
    password_again = forms.CharField(
        label="Password again",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    def clean_password_again(self) -> str:
        again: str = self.cleaned_data["password_again"]
        if again != self.cleaned_data.get("password"):
            raise forms.ValidationError("The two passwords differ.")
        return again


class KeyForm(forms.Form):
    """A new API key. The choices of scopes depend on the user's role."""

    name = forms.CharField(
        max_length=80,
        label="Name",
        help_text="What it is for, such as “laptop” or “CI”.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    scopes = forms.MultipleChoiceField(
        label="May be used to",
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one thing that the key may be used for."},
    )
    lifetime = forms.ChoiceField(label="Expires", required=False, choices=list(LIFETIMES.items()))

    def __init__(self, *args: object, user: User, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came
        scopes = self.fields["scopes"]
        assert isinstance(scopes, forms.MultipleChoiceField)
        scopes.choices = [
            (scope.value, str(scope.label)) for scope in Scope if scope.value in user.allowed_scopes
        ]

    def expires_at(self) -> datetime | None:
        """When the key ends; None for never."""
        days = self.cleaned_data["lifetime"]
        return timezone.now() + timedelta(days=int(days)) if days else None
