"""Django's registration of the bounty app."""

from django.apps import AppConfig


class BountyConfig(AppConfig):
    name = "bounty"
