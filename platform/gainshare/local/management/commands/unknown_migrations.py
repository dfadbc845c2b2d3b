"""`unknown_migrations`: lists migrations in the database that this code does not know. Changes nothing.

Django's `migrate` ignores them, so older code would work on tables that it does not know.
"""

import sys
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand
from django.db import connection
from django.db.migrations.loader import MigrationLoader

OURS = ("gainshare", "bounty")


class Command(BaseCommand):
    help = (
        "List the database's migrations that this code does not know, one per line; exit status 1 if "
        "there are any"
    )
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        unknown = unknown_migrations()
        for name in unknown:
            self.stdout.write(name)
        if unknown:
            sys.exit(1)


def unknown_migrations() -> list[str]:
    """`app.name` of each unknown migration of our apps, sorted. Third-party apps sometimes drop old ones."""
    loader = MigrationLoader(connection)
    known = set(loader.disk_migrations)
    for migration in loader.disk_migrations.values():
        known.update((app, name) for app, name in migration.replaces)
    ours = {config.label for config in apps.get_app_configs() if config.name.partition(".")[0] in OURS}
    return sorted(
        f"{app}.{name}" for app, name in loader.applied_migrations if app in ours and (app, name) not in known
    )
