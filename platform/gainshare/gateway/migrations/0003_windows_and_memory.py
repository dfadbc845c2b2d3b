from django.db import migrations, models


# Rows of before: the prompt was billed whole or not at all, as the first two lines of the bill say. Of a request that
# runs, it counts once a token was delivered.
COUNT_PROMPTS = """
UPDATE gateway_usagerecord SET counted_prompt_tokens = prompt_tokens
WHERE CASE WHEN status = 'running' THEN completion_tokens > 0
           ELSE (bill_lines -> 0 ->> 'quantity')::bigint + (bill_lines -> 1 ->> 'quantity')::bigint = prompt_tokens
      END
"""


class Migration(migrations.Migration):

    dependencies = [
        ('gateway', '0002_request_ends_before_its_hold'),
        ('ledger', '0003_price_terms'),
    ]

    operations = [
        migrations.AddField(
            model_name='usagerecord',
            name='counted_prompt_tokens',
            field=models.PositiveIntegerField(default=0, help_text='Prompt tokens that are billed: all, or 0 where nothing was delivered.'),
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='kv_byte_ms',
            field=models.BigIntegerField(default=0, help_text="Cache memory by the gateway's counts and clock, in byte-milliseconds."),
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='kv_bytes_per_token',
            field=models.PositiveIntegerField(default=0, help_text="Of the installed model's cache; 0 if it is not known."),
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='output_hours',
            field=models.JSONField(default=list, help_text='[hour of day (UTC), answer, tokens], in the order of arrival at the gateway.'),
        ),
        migrations.AddField(
            model_name='usagerecord',
            name='prompt_hour',
            field=models.PositiveSmallIntegerField(help_text='Hour of day (UTC) in which the first token arrived at the gateway.', null=True),
        ),
        migrations.RunSQL(COUNT_PROMPTS, migrations.RunSQL.noop),
        migrations.AddConstraint(
            model_name='usagerecord',
            constraint=models.CheckConstraint(condition=models.Q(('counted_prompt_tokens', 0), ('counted_prompt_tokens', models.F('prompt_tokens')), _connector='OR'), name='usage_prompt_counted_whole_or_not'),
        ),
        migrations.AddConstraint(
            model_name='usagerecord',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('prompt_hour__isnull', True), ('prompt_hour__lte', 23), _connector='OR'), ('kv_byte_ms__gte', 0)), name='usage_hour_and_memory_in_range'),
        ),
    ]
