"""The form that deploys a lineage's tip for a served model, or has it deployed by itself."""

from __future__ import annotations

from django import forms

from bounty.models import AutomaticDeploy, Lineage
from gainshare.capacity.models import ServedModel


class DeployForm(forms.Form):
    """The served model. Its choices are those of the pool."""

    prefix = "deploy"

    model = forms.ChoiceField(label="Served model")

    def __init__(self, *arguments: object, **more: object) -> None:
        super().__init__(*arguments, **more)  # type: ignore[arg-type]  # passed on as Django has them
        names = ServedModel.objects.values_list("name", flat=True)
        self.fields["model"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]  # a ChoiceField


def deploy_form(lineage: Lineage) -> DeployForm:
    """The empty form, with the model that the lineage was set up for."""
    setting = AutomaticDeploy.objects.filter(lineage=lineage).first()
    return DeployForm(initial={"model": setting.model} if setting else None)
