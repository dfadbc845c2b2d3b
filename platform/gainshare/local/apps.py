"""Django's registration of local mode: it has no models, only the command `bootstrap_local`."""

from django.apps import AppConfig


class LocalConfig(AppConfig):
    name = "gainshare.local"
    label = "local"
