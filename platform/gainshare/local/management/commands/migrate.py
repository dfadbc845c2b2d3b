"""`migrate`, which gives an empty database the schema that an earlier one was migrated to, if one was kept."""

from typing import Any

from django.core.management.commands import migrate
from django.db import connections

from gainshare.local.schema_store import store_of_environment

PARTIAL = ("app_label", "fake", "fake_initial", "plan", "check_unapplied", "prune")


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        connection = connections[options["database"]]
        store = None if any(options.get(name) for name in PARTIAL) else store_of_environment()
        if store is None or connection.introspection.table_names():
            super().handle(*args, **options)
            return
        was_kept = store.restore(connection)
        super().handle(*args, **options)
        if not was_kept:
            store.keep(connection)
