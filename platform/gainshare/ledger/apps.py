"""Django's registration of the ledger app."""

from django.apps import AppConfig


class LedgerConfig(AppConfig):
    name = "gainshare.ledger"
    label = "ledger"
