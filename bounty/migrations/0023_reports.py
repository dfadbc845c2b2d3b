"""A final check run is written down before it is sent, and never changes: a trigger holds that."""

from django.db import migrations, models
from django.db.models import Q

NEVER_CHANGES = """
CREATE FUNCTION bounty_final_report_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a final check run never changes' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER bounty_final_report_stays BEFORE UPDATE ON bounty_report FOR EACH ROW
    WHEN (OLD.is_final AND (NOT NEW.is_final OR OLD.final_fields IS DISTINCT FROM NEW.final_fields
        OR OLD.outcome IS DISTINCT FROM NEW.outcome
        OR OLD.told_at IS DISTINCT FROM NEW.told_at OR OLD.subject IS DISTINCT FROM NEW.subject
        OR OLD.head_id IS DISTINCT FROM NEW.head_id))
    EXECUTE FUNCTION bounty_final_report_stays();
"""

MAY_CHANGE = """
DROP TRIGGER bounty_final_report_stays ON bounty_report;
DROP FUNCTION bounty_final_report_stays();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("bounty", "0022_pulls"),
    ]

    operations = [
        migrations.AddField(
            model_name="report",
            name="outcome",
            field=models.CharField(
                blank=True, help_text="What a final check run tells, by `outcomes.Outcome.key`.", max_length=80
            ),
        ),
        migrations.AddField(
            model_name="report",
            name="final_fields",
            field=models.JSONField(
                blank=True,
                help_text="Of a final check run: what is sent, written down before it is.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="report",
            name="told_at",
            field=models.DateTimeField(
                blank=True, help_text="When a final one was written down.", null=True
            ),
        ),
        migrations.AddField(
            model_name="report",
            name="look_at",
            field=models.DateTimeField(
                blank=True,
                help_text="Of a comment: when its pull request is compared with what was sent; empty: after the next change.",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="report",
            name="due_at",
            field=models.DateTimeField(
                blank=True, help_text="Not sent before; empty: it is not held back.", null=True
            ),
        ),
        migrations.AddConstraint(
            model_name="report",
            constraint=models.CheckConstraint(
                condition=Q(is_final=False, final_fields__isnull=True, outcome="")
                | Q(is_final=True, kind="check", final_fields__isnull=False) & ~Q(outcome=""),
                name="a_final_check_is_written_down",
            ),
        ),
        migrations.AddIndex(
            model_name="report",
            index=models.Index(condition=Q(look_at__isnull=False), fields=["look_at"], name="bounty_report_to_look_at"),
        ),
        migrations.RunSQL(NEVER_CHANGES, MAY_CHANGE),
    ]
