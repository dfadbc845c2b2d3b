"""Django's registration of the web app."""

from importlib import import_module

from django.apps import AppConfig


class WebConfig(AppConfig):
    name = "gainshare.web"
    label = "web"

    def ready(self) -> None:
        import_module("gainshare.web.http.access_log").protect_server_log()
