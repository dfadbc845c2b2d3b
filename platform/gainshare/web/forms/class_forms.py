"""Form for a class of devices."""

from typing import Any

from django import forms

from gainshare.capacity.models import DeviceClass
from gainshare.capacity.pool.classes import MAX_COUNT, MAX_PRICE, NAME
from gainshare.web.formatting import format_credits
from gainshare.web.forms.amounts import parse_credits, plain_credits

PRICE = "price_microcredits_per_device_hour"


class PriceField(forms.CharField):
    """Credits per device-hour as typed, from zero; cleaned to micro-credits."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=forms.TextInput({"inputmode": "decimal", "autocomplete": "off"}), **kwargs)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        try:
            amount = parse_credits(text)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None
        if not 0 <= amount <= MAX_PRICE:
            raise forms.ValidationError(f"Enter a price from 0 to {format_credits(MAX_PRICE)} credits.")
        return amount


class ClassForm(forms.Form):
    """What a maintainer says of a class. The name is typed for a new one only."""

    name = forms.RegexField(
        regex=f"^{NAME.pattern}$",
        help_text="1 to 40 lower-case letters, digits and dashes, such as spot-a10.",
        error_messages={"invalid": "Use 1 to 40 lower-case letters, digits and dashes, such as spot-a10."},
    )
    price = PriceField(
        label="Credits per device-hour",
        help_text="Nodes that start from now on cost this; every earlier price stays on record.",
    )
    description = forms.CharField(max_length=200, required=False)
    hardware = forms.CharField(
        max_length=40,
        required=False,
        label="Hardware of its runners",
        help_text="As runners are registered, such as cpu or h100. Empty: no runners belong to it.",
    )
    max_nodes = forms.IntegerField(
        min_value=0,
        max_value=MAX_COUNT,
        label="Nodes at most",
        help_text="Scaling starts no more than these.",
    )
    cold_start_s = forms.IntegerField(
        min_value=0,
        max_value=MAX_COUNT,
        label="Seconds to start a node",
        help_text="From an order to a ready node, until it was measured.",
    )
    is_preemptible = forms.BooleanField(required=False, label="Its devices may be taken away at short notice")

    def __init__(self, *args: Any, of: DeviceClass | None = None, **kwargs: Any) -> None:
        start = of or DeviceClass()
        names = ("description", "hardware", "max_nodes", "cold_start_s", "is_preemptible")
        super().__init__(*args, **kwargs)
        self.initial = {name: getattr(start, name) for name in names}
        self.initial["price"] = plain_credits(start.price_microcredits_per_device_hour)
        if of is not None:
            del self.fields["name"]

    def fields_of_class(self) -> dict[str, Any]:
        """The valid values, by the names of the class's fields."""
        data = dict(self.cleaned_data)
        return {PRICE: data.pop("price"), **data}
