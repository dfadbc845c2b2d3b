"""Give each bounty a short number: those that exist by order of opening, later ones from a sequence."""

from django.db import migrations, models
from django.db.models import Func, Value

SEQUENCE = """
CREATE SEQUENCE bounty_number AS bigint;
"""

# max() of no rows is null: the sequence then stays at its start.
NUMBER_IN_ORDER_OF_OPENING = """
UPDATE bounty_bounty SET number = opened.place
FROM (SELECT id, row_number() OVER (ORDER BY created_at, id) AS place FROM bounty_bounty) AS opened
WHERE opened.id = bounty_bounty.id;
SELECT setval('bounty_number', max(number)) FROM bounty_bounty HAVING max(number) IS NOT NULL;
"""

NEVER_CHANGES = """
CREATE FUNCTION bounty_number_never_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a bounty keeps its number' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER bounty_number_never_changes BEFORE UPDATE ON bounty_bounty
    FOR EACH ROW WHEN (OLD.number IS DISTINCT FROM NEW.number) EXECUTE FUNCTION bounty_number_never_changes();
"""

MAY_CHANGE = """
DROP TRIGGER bounty_number_never_changes ON bounty_bounty;
DROP FUNCTION bounty_number_never_changes();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("bounty", "0017_earlier_confirmations"),
    ]

    operations = [
        migrations.RunSQL(SEQUENCE, "DROP SEQUENCE bounty_number;"),
        migrations.AddField(
            model_name="bounty",
            name="number",
            field=models.BigIntegerField(null=True),
        ),
        migrations.RunSQL(NUMBER_IN_ORDER_OF_OPENING, migrations.RunSQL.noop),
        migrations.AlterField(
            model_name="bounty",
            name="number",
            field=models.BigIntegerField(
                db_default=Func(
                    Value("bounty_number"), function="nextval", output_field=models.BigIntegerField()
                ),
                editable=False,
                help_text="People write it as B12.",
                unique=True,
            ),
        ),
        migrations.RunSQL(NEVER_CHANGES, MAY_CHANGE),
    ]
