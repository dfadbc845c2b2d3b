"""Royalties: a transfer from revenue to a wallet lot that starts pending.

The guard of transfers is migration 0002's, with one more flow and one more kind that starts pending.
"""

from django.db import migrations

GUARD = """
CREATE OR REPLACE FUNCTION ledger_transfer_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    payer ledger_account%ROWTYPE;
    payee ledger_account%ROWTYPE;
    held ledger_hold%ROWTYPE;
BEGIN
    IF NEW.state = 'posted' AND NEW.kind <> 'usage'
            AND NEW.posted_amount IS DISTINCT FROM NEW.amount_microcredits THEN
        RAISE EXCEPTION 'ledger: only a leg of a hold posts less than its amount' USING ERRCODE = '23000';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF OLD.state <> 'pending' THEN
            RAISE EXCEPTION 'ledger: transfer % is resolved', OLD.id USING ERRCODE = '23000';
        END IF;
        IF NEW.state = 'pending' OR (NEW.id, NEW.kind, NEW.from_account_id, NEW.to_account_id,
            NEW.amount_microcredits, NEW.hold_id, NEW.position, NEW.terms, NEW.memo, NEW.reference, NEW.actor_id,
            NEW.created_at, NEW.expires_at)
                IS DISTINCT FROM (OLD.id, OLD.kind, OLD.from_account_id, OLD.to_account_id,
            OLD.amount_microcredits, OLD.hold_id, OLD.position, OLD.terms, OLD.memo, OLD.reference, OLD.actor_id,
            OLD.created_at, OLD.expires_at) THEN
            RAISE EXCEPTION 'ledger: a pending transfer can only be resolved' USING ERRCODE = '23000';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.state IS DISTINCT FROM
            (CASE WHEN NEW.kind IN ('reservation', 'award', 'usage'{two_phase}) THEN 'pending' ELSE 'posted' END) THEN
        RAISE EXCEPTION 'ledger: a % does not start %', NEW.kind, NEW.state USING ERRCODE = '23000';
    END IF;
    SELECT * INTO payer FROM ledger_account WHERE id = NEW.from_account_id;
    SELECT * INTO payee FROM ledger_account WHERE id = NEW.to_account_id;
    IF (NEW.kind, payer.kind, coalesce(payee.kind, '-')) NOT IN (
        ('fund', 'issuance', 'treasury'),
        ('escrow', 'treasury', 'escrow'),
        ('escrow_return', 'escrow', 'treasury'),
        ('reservation', 'escrow', '-'),
        ('award', 'escrow', 'wallet_lot'),
        ('repayment', 'wallet_lot', 'receivable'),
        ('reversal', 'wallet_lot', 'escrow'),
        ('reversal', 'receivable', 'escrow'),
        ('grant', 'treasury', 'wallet_lot'),
        ('usage', 'wallet_lot', 'revenue'),
        ('lot_expiry', 'wallet_lot', 'breakage'){flow}
    ) THEN
        RAISE EXCEPTION 'ledger: a % does not move from % to %', NEW.kind, payer.kind, payee.kind
            USING ERRCODE = '23000';
    END IF;
    IF NEW.kind = 'repayment' AND payer.owner_id <> payee.owner_id THEN
        RAISE EXCEPTION 'ledger: no one repays what another person owes' USING ERRCODE = '23000';
    END IF;
    IF (NEW.kind = 'reservation' AND payer.closed_at IS NOT NULL)
            OR (NEW.kind = 'escrow' AND payee.closed_at IS NOT NULL) THEN
        RAISE EXCEPTION 'ledger: the escrow is closed' USING ERRCODE = '23000';
    END IF;
    IF NEW.hold_id IS NOT NULL THEN
        SELECT * INTO held FROM ledger_hold WHERE id = NEW.hold_id;
        IF held.state <> 'open' OR held.user_id <> payer.owner_id THEN
            RAISE EXCEPTION 'ledger: a hold takes only its own user''s lots, while open' USING ERRCODE = '23000';
        END IF;
    END IF;
    RETURN NEW;
END $$;
"""

FORWARD = GUARD.replace("{two_phase}", ", 'royalty'").replace(
    "{flow}", ",\n        ('royalty', 'revenue', 'wallet_lot')"
)
REVERSE = GUARD.replace("{two_phase}", "").replace("{flow}", "")


class Migration(migrations.Migration):
    dependencies = [("ledger", "0003_price_terms")]

    operations = [migrations.RunSQL(FORWARD, REVERSE)]
