"""Django's registration of the gateway app."""

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "gainshare.gateway"
    label = "gateway"
