"""Django's registration of the capacity app."""

from django.apps import AppConfig


class CapacityConfig(AppConfig):
    """The pool of hosts and nodes, and how it is scaled."""

    name = "gainshare.capacity"
    label = "capacity"
