"""Django's registration of the accounts app."""

from importlib import import_module

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "gainshare.accounts"
    label = "accounts"

    def ready(self) -> None:
        import_module("gainshare.accounts.schema")  # registers how the schema describes API keys
