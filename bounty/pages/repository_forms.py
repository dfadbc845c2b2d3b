"""The form that binds a lineage to a repository."""

from django import forms

from bounty.github.repositories.addresses import DEFAULT_FOLDER
from bounty.models import Lineage, RepositoryBinding


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


def repository_form(lineage: Lineage) -> RepositoryForm:
    """The form with the lineage's present binding."""
    binding = RepositoryBinding.objects.filter(lineage=lineage).first()
    if binding is None:
        return RepositoryForm()
    return RepositoryForm(
        initial={"repository": binding.url, "branch": binding.branch, "folder": binding.folder}
    )
