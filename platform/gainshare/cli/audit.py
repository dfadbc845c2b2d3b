"""`gainshare audit`: checks every invariant of the ledger in the database."""

import os
from typing import Any

import typer

from gainshare.cli.output import CliError, JsonOption, console, print_json, table
from gainshare.local.database import use_local_database


def audit(as_json: JsonOption = False) -> None:
    """Check every invariant of the ledger. Exit status 1 if one does not hold.

    Uses DATABASE_URL if it is set, else the local stack on this machine.
    """
    if "DATABASE_URL" not in os.environ:
        use_local_database()
    rows = _invariants()
    if as_json:
        print_json({"holds": all(row["holds"] for row in rows), "invariants": rows})
    else:
        table(
            "Ledger audit",
            ("invariant", "value", "holds", "detail"),
            [(row["name"], row["value"], "yes" if row["holds"] else "NO", row["detail"]) for row in rows],
            right=("value",),
        )
        console.print(f"{sum(row['holds'] for row in rows)} of {len(rows)} invariants hold", highlight=False)
    if not all(row["holds"] for row in rows):
        raise typer.Exit(1)


def _invariants() -> list[dict[str, Any]]:
    # Django is set up here, because no other command needs a database.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gainshare.config.settings")
    import django
    from django.db import DatabaseError

    django.setup()
    from gainshare.ledger.audit import audit as audit_ledger

    try:
        found = audit_ledger()
    except DatabaseError as error:
        raise CliError(f"the database cannot be audited: {str(error).strip()}", code="database") from None
    return [{"name": row.name, "value": row.value, "holds": row.holds, "detail": row.detail} for row in found]
