from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("bounty", "0005_bugs")]

    operations = [
        migrations.AddField(
            model_name="runner",
            name="waits_for_device_since",
            field=models.DateTimeField(
                blank=True, help_text="Other work on its machine holds the device; see device_waits.", null=True
            ),
        ),
    ]
