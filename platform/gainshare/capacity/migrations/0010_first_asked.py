from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('capacity', '0009_slow_answers'),
    ]

    operations = [
        migrations.AlterField(
            model_name='deployment',
            name='watch_ended_at',
            field=models.DateTimeField(help_text='When the platform itself first asked for its rollback.', null=True),
        ),
    ]
