"""The invariants that PostgreSQL itself holds, whoever writes to it.

- Rows of entries, reversals, prices and seals never change or vanish; accounts, transfers and holds never vanish.
- A transfer follows the table of flows, keeps its terms, and leaves ``pending`` once. A hold leaves ``open`` once.
- A posted transfer has exactly two entries that sum to zero; any other transfer has none (checked at commit).
- A hold's legs sum to its amount and to what was settled (checked at commit).
- Only entries move an account's posted balance; only pending transfers move its pending balance.
- An entry is sealed exactly once.

Every refusal has SQLSTATE 23000, which Django raises as IntegrityError.
"""

from django.db import migrations

FORWARD = """
CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'ledger: % on % is refused', TG_OP, TG_TABLE_NAME USING ERRCODE = '23000';
END $$;

CREATE FUNCTION ledger_account_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.posted_microcredits <> 0 OR NEW.pending_microcredits <> 0 OR NEW.closed_at IS NOT NULL THEN
            RAISE EXCEPTION 'ledger: an account starts empty and open' USING ERRCODE = '23000';
        END IF;
        IF (NEW.kind IN ('issuance', 'treasury', 'revenue', 'breakage')) <> (NEW.reference = '') THEN
            RAISE EXCEPTION 'ledger: only the single accounts have no reference' USING ERRCODE = '23000';
        END IF;
        RETURN NEW;
    END IF;
    IF (NEW.posted_microcredits, NEW.pending_microcredits)
            IS DISTINCT FROM (OLD.posted_microcredits, OLD.pending_microcredits) AND pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'ledger: only entries and pending transfers move a balance' USING ERRCODE = '23000';
    END IF;
    IF NEW.closed_at IS DISTINCT FROM OLD.closed_at AND (OLD.closed_at IS NOT NULL OR OLD.kind <> 'escrow') THEN
        RAISE EXCEPTION 'ledger: only an open escrow can be closed' USING ERRCODE = '23000';
    END IF;
    IF (NEW.id, NEW.kind, NEW.owner_id, NEW.reference, NEW.created_at, NEW.priority, NEW.expires_at, NEW.source,
        NEW.is_transferable)
            IS DISTINCT FROM (OLD.id, OLD.kind, OLD.owner_id, OLD.reference, OLD.created_at, OLD.priority,
        OLD.expires_at, OLD.source, OLD.is_transferable) THEN
        RAISE EXCEPTION 'ledger: an account keeps its description' USING ERRCODE = '23000';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION ledger_transfer_guard() RETURNS trigger LANGUAGE plpgsql AS $$
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
            (CASE WHEN NEW.kind IN ('reservation', 'award', 'usage') THEN 'pending' ELSE 'posted' END) THEN
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
        ('lot_expiry', 'wallet_lot', 'breakage')
    ) THEN
        RAISE EXCEPTION 'ledger: a % does not move from % to %', NEW.kind, payer.kind, payee.kind
            USING ERRCODE = '23000';
    END IF;
    IF NEW.kind = 'repayment' AND payer.owner_id <> payee.owner_id THEN
        RAISE EXCEPTION 'ledger: nobody repays what another person owes' USING ERRCODE = '23000';
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

CREATE FUNCTION ledger_transfer_reserve() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state = 'pending' THEN
            UPDATE ledger_account SET pending_microcredits = pending_microcredits + NEW.amount_microcredits
                WHERE id = NEW.from_account_id;
        END IF;
    ELSE
        UPDATE ledger_account SET pending_microcredits = pending_microcredits - OLD.amount_microcredits
            WHERE id = OLD.from_account_id;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_entry_apply() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ledger_account SET posted_microcredits = posted_microcredits + NEW.amount WHERE id = NEW.account_id;
    INSERT INTO ledger_unsealed (entry_id) VALUES (NEW.id);
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_check_transfer(wanted uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    moved ledger_transfer%ROWTYPE;
    entries bigint;
    fitting bigint;
BEGIN
    SELECT * INTO moved FROM ledger_transfer WHERE id = wanted;
    SELECT count(*), count(*) FILTER (WHERE
            (account_id = moved.from_account_id AND amount = -moved.posted_amount)
            OR (account_id = moved.to_account_id AND amount = moved.posted_amount))
        INTO entries, fitting FROM ledger_entry WHERE transfer_id = wanted;
    IF (moved.state = 'posted' AND (entries <> 2 OR fitting <> 2)) OR (moved.state <> 'posted' AND entries <> 0) THEN
        RAISE EXCEPTION 'ledger: the entries of transfer % do not sum to zero over its two accounts', wanted
            USING ERRCODE = '23000';
    END IF;
END $$;

CREATE FUNCTION ledger_check_hold(wanted uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    held ledger_hold%ROWTYPE;
    legs numeric;
    paid numeric;
    unfit bigint;
BEGIN
    SELECT * INTO held FROM ledger_hold WHERE id = wanted;
    SELECT coalesce(sum(amount_microcredits), 0), coalesce(sum(posted_amount), 0),
            count(*) FILTER (WHERE (state = 'pending') <> (held.state = 'open'))
        INTO legs, paid, unfit FROM ledger_transfer WHERE hold_id = wanted;
    IF legs <> held.amount OR paid <> held.settled OR unfit <> 0 THEN
        RAISE EXCEPTION 'ledger: the legs of hold % do not match it', wanted USING ERRCODE = '23000';
    END IF;
END $$;

CREATE FUNCTION ledger_entry_check() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM ledger_check_transfer(NEW.transfer_id);
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_transfer_check() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM ledger_check_transfer(NEW.id);
    IF NEW.hold_id IS NOT NULL THEN
        PERFORM ledger_check_hold(NEW.hold_id);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_hold_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'open' THEN
            RAISE EXCEPTION 'ledger: a hold starts open' USING ERRCODE = '23000';
        END IF;
    ELSIF OLD.state <> 'open' THEN
        RAISE EXCEPTION 'ledger: hold % is resolved', OLD.id USING ERRCODE = '23000';
    ELSIF NEW.state = 'open' OR (NEW.id, NEW.user_id, NEW.amount, NEW.reference, NEW.created_at, NEW.expires_at)
            IS DISTINCT FROM (OLD.id, OLD.user_id, OLD.amount, OLD.reference, OLD.created_at, OLD.expires_at) THEN
        RAISE EXCEPTION 'ledger: an open hold can only be resolved' USING ERRCODE = '23000';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION ledger_hold_check() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM ledger_check_hold(NEW.id);
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_reversal_check() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    award ledger_transfer%ROWTYPE;
BEGIN
    SELECT * INTO award FROM ledger_transfer WHERE id = NEW.award_id;
    IF award.kind <> 'award'
            OR NEW.from_escrow + NEW.from_lot + NEW.receivable <> award.amount_microcredits
            OR NEW.from_escrow <> (CASE award.state WHEN 'voided' THEN award.amount_microcredits
                                                    WHEN 'posted' THEN 0 ELSE -1 END) THEN
        RAISE EXCEPTION 'ledger: reversal % does not match its award', NEW.id USING ERRCODE = '23000';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_seal_apply() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sealed bigint;
BEGIN
    DELETE FROM ledger_unsealed WHERE entry_id = ANY (NEW.entry_ids);
    GET DIAGNOSTICS sealed = ROW_COUNT;
    IF sealed = 0 OR sealed <> cardinality(NEW.entry_ids) THEN
        RAISE EXCEPTION 'ledger: a seal covers waiting entries, each once' USING ERRCODE = '23000';
    END IF;
    IF NEW.previous_hash <> coalesce((SELECT hash FROM ledger_seal WHERE id < NEW.id ORDER BY id DESC LIMIT 1),
                                     repeat('0', 64)) THEN
        RAISE EXCEPTION 'ledger: a seal follows the last one' USING ERRCODE = '23000';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION ledger_unsealed_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'ledger: entries wait for their seal by themselves' USING ERRCODE = '23000';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

CREATE TRIGGER ledger_a_keep BEFORE UPDATE OR DELETE ON ledger_entry
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_keep BEFORE UPDATE OR DELETE ON ledger_reversal
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_keep BEFORE UPDATE OR DELETE ON ledger_priceversion
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_keep BEFORE UPDATE OR DELETE ON ledger_seal
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_keep BEFORE DELETE ON ledger_account
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_keep BEFORE DELETE ON ledger_transfer
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_keep BEFORE DELETE ON ledger_hold
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_keep BEFORE INSERT OR UPDATE OR DELETE ON ledger_unsealed
    FOR EACH ROW EXECUTE FUNCTION ledger_unsealed_guard();

CREATE TRIGGER ledger_a_truncate BEFORE TRUNCATE ON ledger_entry
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_truncate BEFORE TRUNCATE ON ledger_reversal
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_truncate BEFORE TRUNCATE ON ledger_priceversion
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_truncate BEFORE TRUNCATE ON ledger_seal
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_truncate BEFORE TRUNCATE ON ledger_account
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_truncate BEFORE TRUNCATE ON ledger_transfer
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_truncate BEFORE TRUNCATE ON ledger_hold
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();
CREATE TRIGGER ledger_a_truncate BEFORE TRUNCATE ON ledger_unsealed
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse();

CREATE TRIGGER ledger_b_guard BEFORE INSERT OR UPDATE ON ledger_account
    FOR EACH ROW EXECUTE FUNCTION ledger_account_guard();
CREATE TRIGGER ledger_b_guard BEFORE INSERT OR UPDATE ON ledger_transfer
    FOR EACH ROW EXECUTE FUNCTION ledger_transfer_guard();
CREATE TRIGGER ledger_b_guard BEFORE INSERT OR UPDATE ON ledger_hold
    FOR EACH ROW EXECUTE FUNCTION ledger_hold_guard();

CREATE TRIGGER ledger_c_apply AFTER INSERT OR UPDATE ON ledger_transfer
    FOR EACH ROW EXECUTE FUNCTION ledger_transfer_reserve();
CREATE TRIGGER ledger_c_apply AFTER INSERT ON ledger_entry
    FOR EACH ROW EXECUTE FUNCTION ledger_entry_apply();
CREATE TRIGGER ledger_c_apply AFTER INSERT ON ledger_seal
    FOR EACH ROW EXECUTE FUNCTION ledger_seal_apply();

CREATE CONSTRAINT TRIGGER ledger_d_check AFTER INSERT ON ledger_entry
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_entry_check();
CREATE CONSTRAINT TRIGGER ledger_d_check AFTER INSERT OR UPDATE ON ledger_transfer
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_transfer_check();
CREATE CONSTRAINT TRIGGER ledger_d_check AFTER INSERT OR UPDATE ON ledger_hold
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_hold_check();
CREATE CONSTRAINT TRIGGER ledger_d_check AFTER INSERT ON ledger_reversal
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_reversal_check();
"""

REVERSE = """
DROP TRIGGER ledger_a_keep ON ledger_entry;
DROP TRIGGER ledger_a_keep ON ledger_reversal;
DROP TRIGGER ledger_a_keep ON ledger_priceversion;
DROP TRIGGER ledger_a_keep ON ledger_seal;
DROP TRIGGER ledger_a_keep ON ledger_account;
DROP TRIGGER ledger_a_keep ON ledger_transfer;
DROP TRIGGER ledger_a_keep ON ledger_hold;
DROP TRIGGER ledger_a_keep ON ledger_unsealed;
DROP TRIGGER ledger_a_truncate ON ledger_entry;
DROP TRIGGER ledger_a_truncate ON ledger_reversal;
DROP TRIGGER ledger_a_truncate ON ledger_priceversion;
DROP TRIGGER ledger_a_truncate ON ledger_seal;
DROP TRIGGER ledger_a_truncate ON ledger_account;
DROP TRIGGER ledger_a_truncate ON ledger_transfer;
DROP TRIGGER ledger_a_truncate ON ledger_hold;
DROP TRIGGER ledger_a_truncate ON ledger_unsealed;
DROP TRIGGER ledger_b_guard ON ledger_account;
DROP TRIGGER ledger_b_guard ON ledger_transfer;
DROP TRIGGER ledger_b_guard ON ledger_hold;
DROP TRIGGER ledger_c_apply ON ledger_transfer;
DROP TRIGGER ledger_c_apply ON ledger_entry;
DROP TRIGGER ledger_c_apply ON ledger_seal;
DROP TRIGGER ledger_d_check ON ledger_entry;
DROP TRIGGER ledger_d_check ON ledger_transfer;
DROP TRIGGER ledger_d_check ON ledger_hold;
DROP TRIGGER ledger_d_check ON ledger_reversal;
DROP FUNCTION ledger_unsealed_guard();
DROP FUNCTION ledger_seal_apply();
DROP FUNCTION ledger_reversal_check();
DROP FUNCTION ledger_hold_check();
DROP FUNCTION ledger_hold_guard();
DROP FUNCTION ledger_transfer_check();
DROP FUNCTION ledger_entry_check();
DROP FUNCTION ledger_check_hold(uuid);
DROP FUNCTION ledger_check_transfer(uuid);
DROP FUNCTION ledger_entry_apply();
DROP FUNCTION ledger_transfer_reserve();
DROP FUNCTION ledger_transfer_guard();
DROP FUNCTION ledger_account_guard();
DROP FUNCTION ledger_refuse();
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0001_initial")]

    operations = [migrations.RunSQL(FORWARD, REVERSE)]
