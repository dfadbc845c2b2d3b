"""Django's registration of the ledger app."""

from importlib import import_module

from django.apps import AppConfig


class LedgerConfig(AppConfig):
    name = "gainshare.ledger"
    label = "ledger"

    def ready(self) -> None:
        import_module("gainshare.ledger.hand_over")  # registers that credits stay with their user
