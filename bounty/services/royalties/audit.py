"""What the ledger's audit checks of royalties: each day's are within both caps, and each is explained by its terms.

`days` computes the payments in Python, by the same rules. This reads them again from the rows and from the payers'
transfers, so it also finds what a superuser, a restore or a faulty disk did.
"""

from benchmarks.sharing.royalties import DAY_CAP_PPM, PAYER_CAP_PPM
from benchmarks.sharing.savings import MILLION
from gainshare.ledger.audit import register_check

EARNED = """
    SELECT r.model, p.day, r.person_id AS person, p.amount_microcredits AS earned, p.transfer_id
    FROM bounty_royaltypayment p JOIN bounty_royaltyterm r ON r.id = p.term_id
"""
PAID = """
    SELECT u.model, (u.settled_at AT TIME ZONE 'UTC')::date AS day, u.user_id AS payer, sum(t.posted_amount) AS paid
    FROM gateway_usagerecord u
    JOIN ledger_transfer t ON t.hold_id = u.request_id AND t.kind = 'usage' AND t.state = 'posted'
    JOIN ledger_account a ON a.id = t.from_account_id
    WHERE a.source = 'purchase' OR (a.source = 'award' AND a.reference LIKE 'award:%')
    GROUP BY 1, 2, 3
"""
"""What each account paid from lots that count (`days.COUNTING_LOTS`), by the day on which it was settled."""

register_check(
    "royalties_within_their_days",
    "earners and days of a model whose royalties are above the caps of what others paid for it on that day",
    f"""
    WITH earned AS ({EARNED}), paid AS ({PAID}),
    paid_in_all AS (SELECT model, day, sum(paid) AS paid FROM paid GROUP BY 1, 2),
    of_day AS (SELECT model, day, sum(earned) AS earned FROM earned GROUP BY 1, 2),
    of_person AS (SELECT model, day, person, sum(earned) AS earned FROM earned GROUP BY 1, 2, 3)
    SELECT (
        SELECT count(*) FROM of_person e LEFT JOIN paid_in_all d USING (model, day)
        LEFT JOIN paid own ON (own.model, own.day, own.payer) = (e.model, e.day, e.person)
        WHERE e.earned * {MILLION} > {PAYER_CAP_PPM} * (coalesce(d.paid, 0) - coalesce(own.paid, 0))
    ) + (
        SELECT count(*) FROM of_day e LEFT JOIN paid_in_all d USING (model, day)
        WHERE e.earned * {MILLION} > {min(PAYER_CAP_PPM, DAY_CAP_PPM)} * coalesce(d.paid, 0)
    )
    """,  # noqa: S608 - constants
)
register_check(
    "royalties_explained_by_their_terms",
    "royalties of gains that are not the sum of their terms' payments to that person, and days that are not theirs",
    f"""
    WITH earned AS ({EARNED}),
    of_transfer AS (SELECT transfer_id, person, sum(earned) AS earned FROM earned GROUP BY 1, 2),
    royalty AS (
        SELECT t.id, a.owner_id, t.amount_microcredits AS booked FROM ledger_transfer t
        JOIN ledger_account a ON a.id = t.to_account_id
        WHERE t.kind = 'royalty' AND t.reference LIKE 'submission:%'),
    of_day AS (SELECT model, day, sum(earned) AS earned FROM earned GROUP BY 1, 2)
    SELECT (
        SELECT count(*) FROM royalty t FULL JOIN of_transfer e ON e.transfer_id = t.id
        WHERE (t.owner_id, t.booked) IS DISTINCT FROM (e.person, e.earned)
    ) + (
        SELECT count(*) FROM (SELECT model, day, royalties_microcredits FROM bounty_royaltyday) d
        FULL JOIN of_day e ON e.model = d.model AND e.day = d.day
        WHERE coalesce(d.royalties_microcredits, 0) <> coalesce(e.earned, 0) OR d.day IS NULL
    )
    """,  # noqa: S608 - constants
)
