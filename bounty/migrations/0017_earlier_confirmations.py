from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('bounty', '0014_old_tree_of_comparisons'),
    ]

    operations = [
        migrations.AddField(
            model_name='run',
            name='earlier_confirmations',
            field=models.JSONField(blank=True, help_text="Of a pricing run: the person's confirmations of other candidates against its base, as its evidence states them.", null=True),
        ),
    ]
