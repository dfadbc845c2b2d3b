"""A check of a merged tree that the tree itself ends by a failure is told apart from one without figures."""

from django.db import migrations, models
from django.db.models import Q

OUTCOMES = [
    ("open", "Open"),
    ("kept", "Kept"),
    ("slow", "Slow"),
    ("failed", "Failed"),
    ("unclear", "Unclear"),
]


class Migration(migrations.Migration):
    dependencies = [("bounty", "0029_notes_left_out")]

    operations = [
        migrations.AlterField(
            model_name="tipcheck",
            name="outcome",
            field=models.CharField(choices=OUTCOMES, default="open", max_length=8),
        ),
        migrations.RemoveConstraint(model_name="tipcheck", name="tip_check_outcome_known"),
        migrations.AddConstraint(
            model_name="tipcheck",
            constraint=models.CheckConstraint(
                condition=Q(outcome__in=[outcome for outcome, _ in OUTCOMES]), name="tip_check_outcome_known"
            ),
        ),
    ]
