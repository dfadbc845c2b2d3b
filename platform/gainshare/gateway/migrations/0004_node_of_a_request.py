from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('gateway', '0003_windows_and_memory'),
    ]

    operations = [
        migrations.AddField(
            model_name='usagerecord',
            name='node',
            field=models.CharField(blank=True, default='', help_text='That answered last; a static node by its URL.', max_length=200),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='device_class',
            field=models.CharField(blank=True, default='', help_text='Of that node, at that time.', max_length=40),
            preserve_default=False,
        ),
    ]
