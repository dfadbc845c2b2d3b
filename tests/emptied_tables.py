"""Empties the database after a test that commits: rows of the tables that have some, not the files of all tables.

Django truncates every table, each with its indexes: 0.3 s of the server for a hundred tables, of which a test writes ten.
"""

from collections.abc import Sequence
from typing import Any

from django.db import connections
from django.db.backends.postgresql.operations import DatabaseOperations
from psycopg import sql

KEPT = frozenset({"django_content_type", "auth_permission"})
"""Tables that tests only read: their rows follow from the models, and `flush` would write all of them again."""

_truncate_all = DatabaseOperations.sql_flush


def install() -> None:
    """Let `flush`, which a test with committed rows ends with, empty tables this way."""
    DatabaseOperations.sql_flush = empty_written_tables


def empty_written_tables(
    operations: DatabaseOperations, style: Any, tables: Sequence[str], **options: bool
) -> list[str]:
    """The statements that empty `tables`; Django's own where sequences restart or the role is no superuser.

    As with TRUNCATE, triggers of rows do not run. Foreign keys need no check once all tables are empty.
    """
    connection = connections[operations.connection.alias]
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('is_superuser')")
        if any(options.values()) or not tables or cursor.fetchone() != ("on",):
            return _truncate_all(operations, style, tables, **options)
        cursor.execute(_written(sorted(set(tables) - KEPT)).as_string(None))
        written = [name for (name,) in cursor.fetchall()]
    deletions = [f"DELETE FROM {operations.quote_name(name)}" for name in written]
    return ["SET LOCAL session_replication_role = replica", *deletions] if deletions else []


def _written(tables: Sequence[str]) -> sql.Composed:
    """A query of those tables that have rows."""
    return sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})").format(sql.Literal(name), sql.Identifier(name))
        for name in tables
    )
