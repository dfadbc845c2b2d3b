"""Removal of blobs that nothing names: of submissions that came to nothing, of processes that died in between.

A blob is written before the row that names it is committed, so a blob without a row may be about to get one. It is
removed only when it was last put a day ago, and before every transaction that is still open began. Putting what is
stored renews its age (`BlobStore.put`), and the store's lock keeps a removal and a put of one blob apart.
"""

import logging
import time
from datetime import timedelta

from django.db import connection, models

from benchmarks.faults import fault_point
from bounty.models import BaseStop, Evidence, Head, Reproduction, StoredTree, Submission
from bounty.services.trees import blob_store
from gainshare.capacity.models import Deployment

logger = logging.getLogger(__name__)

KEPT_FOR = timedelta(days=1)
BEFORE_TRANSACTION = timedelta(hours=1)  # how long before its transaction a process may have put a blob

# Every column that holds the name of a blob. The manifests of trees name the others.
NAMED_BY: tuple[tuple[type[models.Model], str], ...] = (
    (Submission, "diff_blob"),
    (Evidence, "blob"),
    (BaseStop, "evidence_blob"),
    (Reproduction, "blob"),
    (Head, "diff_blob"),
    (Deployment, "evidence_blob"),
)


def sweep_blobs() -> int:
    """Remove old blobs that no row names; return their number. Repeatable after a kill at any moment."""
    store, before = blob_store(), _safe_moment()
    old = store.put_before(
        before
    )  # listed before the rows are read: what is committed meanwhile is named there
    named = named_blobs()
    if not named:
        if old:
            logger.warning("no blob was removed: the database names none, so it may be another store's")
        return 0
    removed = 0
    for name in old:
        if name not in named and store.remove(name, put_before=before):
            removed += 1
            fault_point("control.blob_removed")
    store.remove_unfinished(put_before=before)
    if removed:
        logger.info("removed %d blobs that nothing names", removed)
    return removed


def named_blobs() -> set[str]:
    """The names of all blobs that a row names."""
    named: set[str] = set()
    for model, column in NAMED_BY:
        named.update(model._default_manager.values_list(column, flat=True).iterator())
    table = connection.ops.quote_name(StoredTree._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT entry ->> 'blob' FROM {table}, jsonb_array_elements(manifest -> 'entries') entry"  # noqa: S608 - the model's own table
        )
        named.update(name for (name,) in cursor.fetchall())
    return named


def _safe_moment() -> float:
    """Seconds since the epoch; a process that put a blob before it has committed its row, or never will.

    Only clients name blobs: the server's own transactions, such as autovacuum's, hold nothing back.
    """
    moment = time.time() - KEPT_FOR.total_seconds()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT extract(epoch FROM min(xact_start)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        (oldest,) = cursor.fetchone() or (None,)
    return moment if oldest is None else min(moment, float(oldest) - BEFORE_TRANSACTION.total_seconds())
