"""The forms that bind a lineage to a repository, and connect it to one that the GitHub App sees."""

from __future__ import annotations

from typing import Any

from django import forms

from bounty.github.repositories.addresses import DEFAULT_FOLDER
from bounty.github.repositories.connections import seen_repositories
from bounty.models import Lineage, RepositoryBinding
from gainshare.web.formatting import format_credits
from gainshare.web.forms.credit_forms import CreditsField


class RepositoryForm(forms.Form):
    """A repository, its branch, and the folder that is the lineage's `model/`."""

    repository = forms.CharField(
        max_length=300, label="Repository", help_text="OWNER/NAME at GitHub, or an https address."
    )
    branch = forms.CharField(max_length=200, initial="main", label="Branch")
    folder = forms.CharField(
        max_length=240,
        initial=DEFAULT_FOLDER,
        label="Folder",
        help_text="The folder that is this lineage's <code>model/</code>.",
    )


class ConnectForm(forms.Form):
    """A repository that the App sees, its branch and folder, and what comments there can spend."""

    prefix = "github"

    github_id = forms.TypedChoiceField(
        coerce=int,
        label="Repository at GitHub",
        help_text="The App sees these. Install it in another one to have it here.",
    )
    branch = forms.CharField(max_length=200, initial="main", label="Branch")
    folder = forms.CharField(
        max_length=240,
        initial=DEFAULT_FOLDER,
        label="Folder",
        help_text="The folder that is this lineage's <code>model/</code>.",
    )
    daily = CreditsField(
        required=False,
        label="Credits a day for comments",
        help_text="What maintainers' comments there can put into bounties of this lineage in a day (UTC). Empty: nothing.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["github_id"]
        assert isinstance(field, forms.TypedChoiceField)
        field.choices = [(repository.pk, repository.full_name) for repository in seen_repositories()]

    def terms(self) -> dict[str, Any]:
        """The service's arguments of a valid form."""
        data = dict(self.cleaned_data)
        daily = data.pop("daily") or 0
        return {**data, "daily_microcredits": daily}


def repository_form(lineage: Lineage) -> RepositoryForm:
    """The form with the lineage's present binding."""
    binding = RepositoryBinding.objects.filter(lineage=lineage).first()
    if binding is None:
        return RepositoryForm()
    return RepositoryForm(
        initial={"repository": binding.url, "branch": binding.branch, "folder": binding.folder}
    )


def connect_form(binding: RepositoryBinding | None) -> ConnectForm:
    """The form with the lineage's present connection."""
    if binding is None:
        return ConnectForm()
    daily = binding.daily_microcredits
    return ConnectForm(
        initial={
            "github_id": binding.github_id,
            "branch": binding.branch,
            "folder": binding.folder,
            "daily": format_credits(daily) if daily else "",
        }
    )
