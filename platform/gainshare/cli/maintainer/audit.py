"""`gainshare audit`: checks every invariant of the ledger, and recomputes every charge, in the database."""

import os
from dataclasses import asdict
from typing import Annotated, Any

import typer

from gainshare.cli.output import CliError, JsonOption, console, print_json, table
from gainshare.local.database import use_local_database

MOST_SHOWN = 20  # differences; --json lists all


def audit(
    recompute: Annotated[
        bool,
        typer.Option(
            "--recompute", help="also compute every charge again from its usage row and its price version"
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every invariant of the ledger. Exit status 1 if one does not hold, or if a charge differs.

    Uses DATABASE_URL if it is set, else the local stack on this machine.
    """
    if "DATABASE_URL" not in os.environ:
        use_local_database()
    rows, charges = _audited(recompute)
    holds = all(row["holds"] for row in rows) and not (charges and charges["differences"])
    if as_json:
        print_json({"holds": holds, "invariants": rows, **({"recomputed": charges} if charges else {})})
    else:
        _show(rows)
        if charges:
            _show_charges(charges)
    if not holds:
        raise typer.Exit(1)


def _show(rows: list[dict[str, Any]]) -> None:
    table(
        "Ledger audit",
        ("invariant", "value", "holds", "detail"),
        [(row["name"], row["value"], "yes" if row["holds"] else "NO", row["detail"]) for row in rows],
        right=("value",),
    )
    console.print(f"{sum(row['holds'] for row in rows)} of {len(rows)} invariants hold", highlight=False)


def _show_charges(charges: dict[str, Any]) -> None:
    differences = charges["differences"]
    if differences:
        names = ("request_id", "what", "stored", "recomputed")
        shown = [tuple(str(each[name]) for name in names) for each in differences[:MOST_SHOWN]]
        table("Charges that differ", ("request", "what", "stored", "recomputed"), shown)
    n_differ = len({each["request_id"] for each in differences})
    console.print(
        f"{charges['requests']} requests recomputed, {n_differ} differ; they cost {charges['billed_microcredits']} "
        f"micro-credits, of which {charges['charged_microcredits']} were charged",
        highlight=False,
    )


def _audited(recompute: bool) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The ledger's invariants, and the recomputed charges if asked for."""
    # Django is set up here, because no other command needs a database.
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gainshare.config.settings")
    import django
    from django.db import DatabaseError

    django.setup()
    from gainshare.gateway.recompute import recompute as recompute_charges
    from gainshare.ledger.audit import audit as audit_ledger

    try:
        found = audit_ledger()
        charges = asdict(recompute_charges()) if recompute else None
    except DatabaseError as error:
        raise CliError(f"the database cannot be audited: {str(error).strip()}", code="database") from None
    invariants = [
        {"name": row.name, "value": row.value, "holds": row.holds, "detail": row.detail} for row in found
    ]
    return invariants, charges
