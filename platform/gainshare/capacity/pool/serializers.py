"""REST forms of classes and of the pool."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from gainshare.capacity.models import DeviceClass
from gainshare.capacity.pool.classes import MAX_COUNT, MAX_PRICE
from gainshare.capacity.pool.overview import ClassView, DeviceView


class ClassFields(serializers.Serializer[Any]):
    """What may be changed of a class; what is left out stays as it is."""

    description = serializers.CharField(max_length=200, allow_blank=True, required=False)
    price_microcredits_per_device_hour = serializers.IntegerField(
        min_value=0,
        max_value=MAX_PRICE,
        required=False,
        help_text="Holds for nodes that start from now on. Every price stays on record.",
    )
    is_preemptible = serializers.BooleanField(
        required=False, help_text="Its devices may be taken away at short notice."
    )
    hardware = serializers.CharField(
        max_length=40,
        allow_blank=True,
        required=False,
        help_text="Hardware of the runners that belong to it; empty: none.",
    )
    max_nodes = serializers.IntegerField(
        min_value=0, max_value=MAX_COUNT, required=False, help_text="Scaling starts no more than these."
    )
    cold_start_s = serializers.IntegerField(
        min_value=0,
        max_value=MAX_COUNT,
        required=False,
        help_text="Seconds from an order to a ready node, until it was measured.",
    )


class ClassIn(ClassFields):
    name = serializers.SlugField(max_length=40, help_text="Such as cpu-small or spot-a10.")


class ClassOut(serializers.ModelSerializer[DeviceClass]):
    class Meta:
        model = DeviceClass
        fields = [
            "name",
            "description",
            "price_microcredits_per_device_hour",
            "is_preemptible",
            "hardware",
            "max_nodes",
            "cold_start_s",
            "created_at",
            "updated_at",
        ]


class PriceOut(serializers.Serializer[Any]):
    price_microcredits_per_device_hour = serializers.IntegerField()
    set_by = serializers.CharField(
        source="set_by.username", default="", help_text="Empty: the machine's own supervisor."
    )
    set_at = serializers.DateTimeField()


class ClassDetailOut(ClassOut):
    prices = PriceOut(many=True, help_text="Every price that it ever had, newest first.")

    class Meta(ClassOut.Meta):
        fields = [*ClassOut.Meta.fields, "prices"]


class LoadOut(serializers.DictField):
    """What a node said of its load; nothing where it said something else than an object."""

    def to_representation(self, value: Any) -> dict[str, Any]:
        return super().to_representation(value) if isinstance(value, dict) else {}


class PoolNodeOut(serializers.Serializer[Any]):
    host = serializers.CharField(source="host.name")
    device = serializers.IntegerField(help_text="Number of the host's device, from 0.")
    berth = serializers.IntegerField(help_text="0 or 1: a node and its successor share a device for a while.")
    id = serializers.UUIDField()
    model = serializers.CharField()
    tree = serializers.CharField(help_text="Hash of the tree that it executes; empty: the installed one.")
    state = serializers.CharField(help_text="starting, ready or draining.")
    reason = serializers.CharField(help_text="Why it was started.")
    price_microcredits_per_device_hour = serializers.IntegerField(help_text="Of its class, at its start.")
    load = LoadOut(help_text="What its agent last read from it.")
    load_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()
    ready_at = serializers.DateTimeField(allow_null=True)
    hung_at = serializers.DateTimeField(
        allow_null=True, help_text="Since when it answers nothing; nothing new is sent to it."
    )


class PoolLoanOut(serializers.Serializer[Any]):
    host = serializers.CharField(source="host.name")
    device = serializers.IntegerField(help_text="Number of the host's device, from 0.")
    state = serializers.CharField(help_text="offered, taken or recalled.")
    offered_at = serializers.DateTimeField()
    taken_at = serializers.DateTimeField(allow_null=True)
    recalled_at = serializers.DateTimeField(allow_null=True)
    recall_reason = serializers.CharField()


class PoolDeviceOut(serializers.Serializer[DeviceView]):
    number = serializers.IntegerField(help_text="From 0.")
    use = serializers.CharField(help_text="node, offered (to judging), lent (to judging) or free.")
    runner = serializers.CharField(help_text="Name of the runner that measures on it; empty: none.")


class PoolHostOut(serializers.Serializer[Any]):
    name = serializers.CharField(source="host.name")
    last_seen_at = serializers.DateTimeField(source="host.last_seen_at", allow_null=True)
    is_silent = serializers.BooleanField(help_text="Nothing is sent to its nodes, and none starts there.")
    leaves_at = serializers.DateTimeField(source="host.leaves_at", allow_null=True)
    problem = serializers.CharField(help_text="Empty: none. Its text is for maintainers.")
    is_shared = serializers.BooleanField(help_text="Its one device serves and judges at the same time.")
    sharing = serializers.CharField(help_text="The same in words.")
    devices = PoolDeviceOut(many=True)


class PoolRunnerOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    hardware = serializers.CharField()
    state = serializers.CharField()
    busy_with = serializers.CharField(help_text="Empty: idle.")
    sandbox_level = serializers.CharField(help_text="Of its newest evidence; empty: it has none.")
    last_seen_at = serializers.DateTimeField(allow_null=True)


class RatesOut(serializers.Serializer[Any]):
    model = serializers.CharField()
    prefill_tokens_per_s = serializers.FloatField()
    decode_tokens_per_s = serializers.FloatField(help_text="Of one answer.")
    requests_per_s = serializers.FloatField(help_text="Of a node whose slots are all in use.")


class PoolClassOut(serializers.Serializer[ClassView]):
    name = serializers.CharField(source="device_class.name")
    description = serializers.CharField(source="device_class.description")
    price_microcredits_per_device_hour = serializers.IntegerField(
        source="device_class.price_microcredits_per_device_hour"
    )
    price_before_microcredits = serializers.IntegerField(
        source="price_change.before_microcredits",
        default=None,
        allow_null=True,
        help_text="Price before the last change; null: the price is the first.",
    )
    price_changed_by = serializers.CharField(source="price_change.by", default="")
    price_changed_at = serializers.DateTimeField(source="price_change.at", default=None, allow_null=True)
    is_preemptible = serializers.BooleanField(source="device_class.is_preemptible")
    hardware = serializers.CharField(source="device_class.hardware")
    max_nodes = serializers.IntegerField(source="device_class.max_nodes")
    n_nodes = serializers.IntegerField(help_text="Nodes that have not ended.")
    hosts = PoolHostOut(many=True)
    nodes = PoolNodeOut(many=True)
    loans = PoolLoanOut(many=True, help_text="Devices that are offered or lent to judging.")
    rates = RatesOut(
        many=True, help_text="As the gateway measured them, for each model that it serves now; 0: not yet."
    )
    runners = PoolRunnerOut(many=True, help_text="Those of the class's hardware.")


class StaticNodeOut(serializers.Serializer[Any]):
    number = serializers.IntegerField(help_text="From 1, in the setting's order.")
    address = serializers.CharField(help_text="For maintainers; else empty.")


class PoolOut(serializers.Serializer[Any]):
    classes = PoolClassOut(many=True)
    static_nodes = StaticNodeOut(many=True, help_text="Nodes of the setting GAINSHARE_MODEL_NODES.")
    other_runners = PoolRunnerOut(many=True, help_text="Runners of a hardware that no class names.")
