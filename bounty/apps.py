"""Django's registration of the bounty app."""

from importlib import import_module

from django.apps import AppConfig


class BountyConfig(AppConfig):
    name = "bounty"

    def ready(self) -> None:
        import_module("bounty.github.handing_over")  # registers what a linked GitHub account brings with it
        import_module("bounty.services.royalties.audit")  # registers what the audit checks of royalties
