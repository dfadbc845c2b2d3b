"""Checks every invariant of the ledger from its rows, in one snapshot, with a figure for each.

The database enforces them (migration 0002). The audit finds violations by a superuser, a restore or a faulty
disk. ``value`` counts violations unless the name says otherwise.
"""

from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction

from benchmarks.sharing.royalties import DAY_CAP_PPM
from benchmarks.sharing.savings import MILLION
from gainshare.ledger.chain import GENESIS, link_hash
from gainshare.ledger.kinds import FLOWS
from gainshare.ledger.models import Seal
from gainshare.ledger.services.sealing import sealed_entries


@dataclass(frozen=True)
class Invariant:
    """One invariant: its figure, whether it holds, and what the figure means."""

    name: str
    value: int | str
    holds: bool
    detail: str


def audit() -> list[Invariant]:
    """Check every invariant in one snapshot (unless the caller's transaction has already begun)."""
    is_own = not connection.in_atomic_block
    with transaction.atomic():
        if is_own:
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        counted = [_counted(*check) for check in (*COUNTED, *_registered.values())]
        return [*counted, *_totals(), _flows(), *_chain(), _guards()]


def register_check(name: str, what: str, sql: str) -> None:
    """Have every audit count the violations of an invariant between the ledger's rows and another app's.

    ``what`` are the words after the count. ``sql`` is one query of one number.
    """
    _registered[name] = (name, what, sql)


_registered: dict[str, tuple[str, str, str]] = {}


COUNTED = (
    (
        "transfers_sum_to_zero",
        "posted transfers whose entries are not exactly minus and plus the posted amount, or others with entries",
        """
        SELECT count(*) FROM ledger_transfer t LEFT JOIN (
            SELECT transfer_id, count(*) AS n, sum(amount) AS net, max(amount) AS paid FROM ledger_entry
            GROUP BY transfer_id
        ) e ON e.transfer_id = t.id
        WHERE CASE WHEN t.state = 'posted' THEN (e.n, e.net, e.paid) IS DISTINCT FROM (2, 0, t.posted_amount)
                   ELSE e.n IS NOT NULL END
        """,
    ),
    (
        "entries_match_their_transfers",
        "entries on an account that their transfer does not name, or on the wrong side of it",
        """
        SELECT count(*) FROM ledger_entry e JOIN ledger_transfer t ON t.id = e.transfer_id
        WHERE e.account_id <> CASE WHEN e.amount < 0 THEN t.from_account_id ELSE t.to_account_id END
        """,
    ),
    (
        "balances_equal_entries",
        "accounts whose posted balance is not the sum of their entries",
        """
        SELECT count(*) FROM ledger_account a LEFT JOIN (
            SELECT account_id, sum(amount) AS net FROM ledger_entry GROUP BY account_id
        ) e ON e.account_id = a.id WHERE a.posted_microcredits <> coalesce(e.net, 0)
        """,
    ),
    (
        "pending_equals_open_transfers",
        "accounts whose pending balance is not the sum of the pending transfers that would leave them",
        """
        SELECT count(*) FROM ledger_account a LEFT JOIN (
            SELECT from_account_id, sum(amount_microcredits) AS open FROM ledger_transfer WHERE state = 'pending'
            GROUP BY from_account_id
        ) t ON t.from_account_id = a.id WHERE a.pending_microcredits <> coalesce(t.open, 0)
        """,
    ),
    (
        "no_account_overdrawn",
        "accounts with less than they have reserved; issuance and receivables above zero",
        """
        SELECT count(*) FROM ledger_account WHERE CASE
            WHEN kind IN ('issuance', 'receivable') THEN posted_microcredits > 0 OR pending_microcredits <> 0
            ELSE pending_microcredits < 0 OR posted_microcredits < pending_microcredits END
        """,
    ),
    (
        "holds_match_their_legs",
        "holds whose legs do not sum to the amount and to what was settled, or are open when the hold is not",
        """
        SELECT count(*) FROM ledger_hold h LEFT JOIN (
            SELECT hold_id, sum(amount_microcredits) AS held, sum(coalesce(posted_amount, 0)) AS paid,
                   count(*) FILTER (WHERE state = 'pending') AS pending, count(*) AS legs
            FROM ledger_transfer WHERE hold_id IS NOT NULL GROUP BY hold_id
        ) t ON t.hold_id = h.id
        WHERE h.amount <> coalesce(t.held, 0) OR h.settled <> coalesce(t.paid, 0)
           OR coalesce(t.pending, 0) <> CASE WHEN h.state = 'open' THEN coalesce(t.legs, 0) ELSE 0 END
        """,
    ),
    (
        "settled_within_hold",
        "holds settled above their amount, or paid without being settled",
        """
        SELECT count(*) FROM ledger_hold
        WHERE settled NOT BETWEEN 0 AND amount OR (settled > 0 AND state <> 'settled')
        """,
    ),
    (
        "resolved_once",
        "transfers and holds with a time of resolution while open, or resolved without one, or before they began",
        """
        SELECT (SELECT count(*) FROM ledger_transfer WHERE (state = 'pending') <> (resolved_at IS NULL)
                    OR resolved_at < created_at - interval '1 minute')
             + (SELECT count(*) FROM ledger_hold WHERE (state = 'open') <> (resolved_at IS NULL)
                    OR resolved_at < created_at - interval '1 minute')
        """,
    ),
    (
        "reservations_never_pay",
        "reservations that were posted",
        "SELECT count(*) FROM ledger_transfer WHERE kind = 'reservation' AND state = 'posted'",
    ),
    (
        "reversals_match_their_awards",
        "reversals whose three parts do not sum to the award, or that name no award",
        """
        SELECT count(*) FROM ledger_reversal r JOIN ledger_transfer t ON t.id = r.award_id
        WHERE t.kind <> 'award' OR r.from_escrow + r.from_lot + r.receivable <> t.amount_microcredits
           OR (t.state = 'voided') <> (r.from_escrow > 0) OR t.state = 'pending'
        """,
    ),
    (
        "voided_awards_were_reversed",
        "awards that were voided without a reversal",
        """
        SELECT count(*) FROM ledger_transfer t LEFT JOIN ledger_reversal r ON r.award_id = t.id
        WHERE t.kind = 'award' AND t.state NOT IN ('pending', 'posted') AND r.id IS NULL
        """,
    ),
    (
        "royalties_vest_into_their_own_lots",
        "royalties whose lot is not their own, or that expired",
        """
        SELECT count(*) FROM ledger_transfer t JOIN ledger_account a ON a.id = t.to_account_id
        WHERE t.kind = 'royalty'
          AND (a.source <> 'royalty' OR a.reference <> 'royalty:' || t.id OR t.state = 'expired')
        """,
    ),
    (
        "lots_have_one_source",
        "wallet lots with credits that do not come from exactly one grant, award or royalty",
        """
        SELECT count(*) FROM ledger_account a WHERE a.kind = 'wallet_lot' AND 1 <> (
            SELECT count(*) FROM ledger_transfer t WHERE t.to_account_id = a.id AND t.kind IN ('grant', 'award', 'royalty'))
        """,
    ),
    (
        "every_entry_sealed_or_waiting_once",
        "entries that are neither in a seal nor waiting for one, or in several",
        """
        SELECT count(*) FROM (
            SELECT e.id FROM ledger_entry e
            LEFT JOIN (SELECT unnest(entry_ids) AS entry_id FROM ledger_seal
                       UNION ALL SELECT entry_id FROM ledger_unsealed) s ON s.entry_id = e.id
            GROUP BY e.id HAVING count(s.entry_id) <> 1
        ) unfit
        """,
    ),
)
"""Name, what is counted, and the query that counts violations."""


def _value(sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
    assert row is not None
    return row[0]


def _counted(name: str, what: str, sql: str) -> Invariant:
    count = int(_value(sql))
    return Invariant(name, count, count == 0, f"{count} {what}")


def _totals() -> list[Invariant]:
    net = int(_value("SELECT coalesce(sum(amount), 0) FROM ledger_entry"))
    issued, owed, supply = (
        int(_value(f"SELECT coalesce(sum(posted_microcredits), 0) FROM ledger_account WHERE kind {which}"))  # noqa: S608 - constants
        for which in ("= 'issuance'", "= 'receivable'", "NOT IN ('issuance', 'receivable')")
    )
    funded = int(
        _value(
            "SELECT coalesce(sum(posted_amount), 0) FROM ledger_transfer WHERE kind = 'fund' AND state = 'posted'"
        )
    )
    debts = int(
        _value(
            """
            SELECT coalesce((SELECT sum(receivable) FROM ledger_reversal), 0)
                 - coalesce((SELECT sum(posted_amount) FROM ledger_transfer WHERE kind = 'repayment'), 0)
            """
        )
    )
    unvested = int(
        _value(
            """
            SELECT coalesce(sum(amount_microcredits), 0) FROM ledger_transfer
            WHERE kind = 'award' AND state = 'pending'
            """
        )
    )
    uncovered = int(
        _value(
            """
            SELECT count(*) FROM ledger_account a WHERE a.kind = 'escrow' AND a.posted_microcredits < (
                SELECT coalesce(sum(t.amount_microcredits), 0) FROM ledger_transfer t
                WHERE t.from_account_id = a.id AND t.state = 'pending' AND t.kind IN ('award', 'reservation'))
            """
        )
    )
    spent, royalties = (
        int(_value(sql))
        for sql in (
            "SELECT coalesce(sum(posted_amount), 0) FROM ledger_transfer WHERE kind = 'usage' AND state = 'posted'",
            """
            SELECT coalesce(sum(amount_microcredits), 0) FROM ledger_transfer
            WHERE kind = 'royalty' AND state IN ('pending', 'posted')
            """,
        )
    )
    return [
        Invariant("all_entries_sum_to_zero", net, net == 0, f"the sum of all entries is {net}"),
        Invariant(
            "supply_equals_issuance",
            supply,
            supply == -issued - owed and -issued == funded,
            f"{supply} exist, {-issued} were issued ({funded} by transfers) and {-owed} are owed after reversals",
        ),
        Invariant(
            "debts_are_explained",
            -owed,
            -owed == debts,
            f"{-owed} are owed; reversals less repayments make {debts}",
        ),
        Invariant(
            "escrow_covers_unvested",
            unvested,
            uncovered == 0,
            f"{unvested} are awarded and unvested; {uncovered} escrows do not cover theirs",
        ),
        Invariant(
            "royalties_within_revenue",
            royalties,
            royalties * MILLION <= spent * DAY_CAP_PPM,
            f"{royalties} are paid or unvested as royalties, of {spent} that users spent",
        ),
    ]


def _flows() -> Invariant:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT t.kind, f.kind, p.kind, count(*) FROM ledger_transfer t
            JOIN ledger_account f ON f.id = t.from_account_id LEFT JOIN ledger_account p ON p.id = t.to_account_id
            GROUP BY 1, 2, 3
            """
        )
        rows = cursor.fetchall()
    allowed = {(kind.value, *_values(pair)) for kind, pairs in FLOWS.items() for pair in pairs}
    count = sum(row[3] for row in rows if row[:3] not in allowed)
    return Invariant(
        "money_follows_the_flows", count, count == 0, f"{count} transfers between the wrong accounts"
    )


def _values(pair: tuple[Any, Any]) -> tuple[str, str | None]:
    return pair[0].value, pair[1].value if pair[1] else None


def _chain() -> list[Invariant]:
    previous, count, broken = GENESIS, 0, 0
    for seal in Seal.objects.order_by("pk").iterator(chunk_size=10):
        entries = sealed_entries(seal.entry_ids)
        is_whole = len(entries) == len(seal.entry_ids)
        if not is_whole or seal.previous_hash != previous or seal.hash != link_hash(previous, entries):
            broken += 1
        previous, count = seal.hash, count + 1
    waiting = int(_value("SELECT count(*) FROM ledger_unsealed"))
    return [
        Invariant(
            "hash_chain_unbroken",
            broken,
            broken == 0,
            f"{broken} of {count} seals do not match their entries",
        ),
        Invariant(
            "hash_chain_head",
            previous,
            True,
            f"store this hash outside the site; {waiting} entries wait for the next seal",
        ),
    ]


def _guards() -> Invariant:
    """Check that every trigger of migration 0002 exists and is enabled."""
    active = int(
        _value(
            """
            SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'ledger\\_%' AND NOT tgisinternal AND tgenabled = 'O'
            """
        )
    )
    return Invariant(
        "database_guards_active", active, active == GUARDS, f"{active} of {GUARDS} triggers are enabled"
    )


GUARDS = 26
"""How many triggers migration 0002 makes."""
