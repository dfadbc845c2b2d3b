"""One pass at a time for each served model, whatever processes run the control loop."""

from __future__ import annotations

from django.db import connection

# First keys of PostgreSQL's two-key advisory locks; the second one is the served model.
_PASSES = 0x7363
_ENGINES = 0x7364


def lock_pass(served_id: int) -> bool:
    """Take the model's pass until the transaction ends; False while another process has it."""
    return _try_lock(_PASSES, served_id)


def lock_engine(served_id: int) -> bool:
    """Take the model's engine outside (a Ray cluster) until the transaction ends; False while another has it."""
    return _try_lock(_ENGINES, served_id)


def _try_lock(space: int, key: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [space, key])
        row = cursor.fetchone()
    return bool(row and row[0])
