"""`manage.py flush`, restricted to test databases, because it would empty the ledger.

Django cleans up after tests that commit with this command. The ledger's tables refuse TRUNCATE, so their
triggers are disabled for that transaction, which only a database superuser can do.
"""

from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands.flush import Command as DjangoFlush
from django.db import connections, transaction


class Command(DjangoFlush):
    help = "Refused: the ledger is append-only (only test databases are flushed)."

    def handle(self, **options: Any) -> None:
        connection = connections[options["database"]]
        name = str(connection.settings_dict["NAME"])
        if not name.startswith("test_"):
            raise CommandError(f"{name} holds a ledger, which is append-only. Drop the database instead.")
        with transaction.atomic(using=options["database"]):
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL session_replication_role = replica")
            super().handle(**options)
