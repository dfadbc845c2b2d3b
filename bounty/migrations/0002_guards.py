"""What the database itself refuses: changing evidence, verdicts, history and trees; lowering a bounty's rate."""

from django.db import migrations

APPEND_ONLY = [
    "bounty_evidence",
    "bounty_runverdict",
    "bounty_statechange",
    "bounty_storedtree",
    "bounty_review",
    "bounty_logchunk",
]

FUNCTIONS = """
CREATE FUNCTION bounty_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'check_violation';
END $$;

CREATE FUNCTION bounty_rate_never_falls() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.rate_microcredits_per_nat < OLD.rate_microcredits_per_nat THEN
        RAISE EXCEPTION 'the rate of bounty % never falls', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    IF (NEW.lineage_id, NEW.suite, NEW.preset, NEW.hardware) IS DISTINCT FROM
       (OLD.lineage_id, OLD.suite, OLD.preset, OLD.hardware) THEN
        RAISE EXCEPTION 'what bounty % measures never changes', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER rate_never_falls BEFORE UPDATE ON bounty_bounty
    FOR EACH ROW EXECUTE FUNCTION bounty_rate_never_falls();

CREATE FUNCTION bounty_booked_amount_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.amount_microcredits IS NOT NULL AND
       (NEW.amount_microcredits, NEW.transfer_id, NEW.confirmation_run_id, NEW.log_ppm_bound) IS DISTINCT FROM
       (OLD.amount_microcredits, OLD.transfer_id, OLD.confirmation_run_id, OLD.log_ppm_bound) THEN
        RAISE EXCEPTION 'award % is booked and keeps its amount', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER booked_amount_stays BEFORE UPDATE ON bounty_award
    FOR EACH ROW EXECUTE FUNCTION bounty_booked_amount_stays();

CREATE FUNCTION bounty_finished_run_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'finished' AND (NEW.state <> 'finished' OR NEW.nonce <> OLD.nonce
       OR NEW.commitment <> OLD.commitment OR NEW.base_tree_id <> OLD.base_tree_id
       OR NEW.candidate_tree_id <> OLD.candidate_tree_id) THEN
        RAISE EXCEPTION 'run % is finished', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER finished_run_stays BEFORE UPDATE ON bounty_run
    FOR EACH ROW EXECUTE FUNCTION bounty_finished_run_stays();
"""

DROP = """
DROP TRIGGER finished_run_stays ON bounty_run;
DROP TRIGGER booked_amount_stays ON bounty_award;
DROP TRIGGER rate_never_falls ON bounty_bounty;
DROP FUNCTION bounty_finished_run_stays();
DROP FUNCTION bounty_booked_amount_stays();
DROP FUNCTION bounty_rate_never_falls();
DROP FUNCTION bounty_append_only();
"""


class Migration(migrations.Migration):
    dependencies = [("bounty", "0001_initial")]

    operations = [
        migrations.RunSQL(FUNCTIONS, DROP),
        *[
            migrations.RunSQL(
                f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION bounty_append_only();",
                f"DROP TRIGGER append_only ON {table};",
            )
            for table in APPEND_ONLY
        ],
    ]
