"""Forms of the shell. They validate input; the services of the accounts app and the ledger check the rules."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from django import forms
from django.contrib.auth.password_validation import password_validators_help_text_html
from django.utils import timezone

from gainshare.accounts.models import Role, Scope, User
from gainshare.accounts.names import MAX_NAME_CHARS
from gainshare.ledger.services.grants import MAX_PAYMENT_CHARS
from gainshare.web.forms.credit_forms import CreditsField, CreditsForm
from gainshare.web.forms.sent_once import SentOnceForm

LIFETIMES = {"": "Never", "1": "In one day", "30": "In 30 days", "90": "In 90 days", "365": "In one year"}


class FundForm(CreditsForm):
    """Credits to issue into the treasury. The form carries an id, so that sending it twice funds once."""

    transfer_id = forms.UUIDField(initial=uuid4, widget=forms.HiddenInput)
    amount = CreditsField(label="Credits", help_text="New credits, which are created only here.")
    memo = forms.CharField(
        required=False,
        max_length=300,
        label="Note",
        help_text="Purpose of the credits. It is recorded with the movement and cannot be changed.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )


class GrantForm(CreditsForm):
    """Credits for a user. The form carries an id, so that sending it twice grants once."""

    transfer_id = forms.UUIDField(initial=uuid4, widget=forms.HiddenInput)
    username = forms.CharField(
        max_length=MAX_NAME_CHARS,
        label="User name",
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none"}),
    )
    amount = CreditsField(label="Credits", help_text="Taken from the treasury now.")
    expires_on = forms.DateField(
        required=False,
        label="Expires on",
        help_text="At the start of that day (UTC). Unused credits are lost then.",
        widget=forms.DateInput(attrs={"type": "date"}),
    )
    payment = forms.CharField(
        required=False,
        max_length=MAX_PAYMENT_CHARS,
        label="Payment",
        help_text="For purchased credits: what was paid, such as an invoice's number. It gives credits once.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    memo = forms.CharField(
        required=False,
        max_length=300,
        label="Note",
        help_text="Reason for the grant. The user can read it.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )

    def clean_username(self) -> User:
        user = User.objects.filter(username=self.cleaned_data["username"]).first()
        if user is None:
            raise forms.ValidationError("There is no user with this name.")
        return user

    def expires_at(self) -> datetime | None:
        """Expiry of the grant; None for never."""
        day = self.cleaned_data["expires_on"]
        return datetime(day.year, day.month, day.day, tzinfo=UTC) if day else None


class RoleForm(forms.Form):
    """A role for a user, and why."""

    username = forms.CharField(
        max_length=MAX_NAME_CHARS,
        label="User name",
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none"}),
    )
    role = forms.ChoiceField(label="Role", choices=Role.choices, initial=Role.MAINTAINER)
    reason = forms.CharField(
        required=False,
        max_length=300,
        label="Reason",
        help_text="Recorded in the history.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )


class SignUpForm(forms.Form):
    """A new account."""

    username = forms.CharField(
        max_length=150,
        label="User name",
        help_text="The letters a to z and A to Z, digits and @ . + - _ only. It is shown with your submissions.",
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


class GitHubNameForm(forms.Form):
    """The user name of someone who signs in with GitHub for the first time."""

    username = forms.CharField(
        max_length=MAX_NAME_CHARS,
        label="User name",
        help_text="The letters a to z and A to Z, digits and @ . + - _ only. It is shown with your submissions, and cannot "
        "be changed later.",
        widget=forms.TextInput(
            attrs={"autocomplete": "username", "autofocus": True, "autocapitalize": "none"}
        ),
    )


class KeyForm(SentOnceForm):
    """A new API key. The choices of scopes depend on the user's role."""

    name = forms.CharField(
        max_length=80,
        label="Name",
        help_text="Purpose of the key, such as “laptop” or “CI”.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    scopes = forms.MultipleChoiceField(
        label="May be used to",
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose at least one permission for the key."},
    )
    lifetime = forms.ChoiceField(label="Expires", required=False, choices=list(LIFETIMES.items()))

    def __init__(self, *args: object, user: User, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # passed on unchanged
        scopes = self.fields["scopes"]
        assert isinstance(scopes, forms.MultipleChoiceField)
        scopes.choices = [
            (scope.value, str(scope.label)) for scope in Scope if scope.value in user.allowed_scopes
        ]

    def expires_at(self) -> datetime | None:
        """Expiry of the key; None for never."""
        days = self.cleaned_data["lifetime"]
        return timezone.now() + timedelta(days=int(days)) if days else None
